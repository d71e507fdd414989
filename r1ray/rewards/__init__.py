"""Rewards, the graders that run them and their Ray actors."""
