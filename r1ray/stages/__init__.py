"""Whole training stages, each built from the parts below."""
