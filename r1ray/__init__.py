"""r1ray trains reasoning models the way DeepSeek-R1 was trained, on Ray."""

__version__ = "0.1.0"
