"""The code reward: runs what a completion wrote against tests, in a sandbox."""
