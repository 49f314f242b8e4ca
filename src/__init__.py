"""Leather surface defects with Vision Transformers: the package behind the four notebooks."""
