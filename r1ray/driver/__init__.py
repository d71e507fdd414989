"""The driver process: placement, streaming, the training loop, its record."""
