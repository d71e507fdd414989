"""The pipeline: named stages, what they take from each other, and going on where it stopped."""
