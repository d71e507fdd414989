"""Sampling engines, and the Ray actors that hold them."""
