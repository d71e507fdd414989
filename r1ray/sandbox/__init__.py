"""Killable child processes with limits, for work that may never end."""
