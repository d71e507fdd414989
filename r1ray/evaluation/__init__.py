"""Held-out evaluation: sampling, grading and the figures of it."""
