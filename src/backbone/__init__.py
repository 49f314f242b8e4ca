"""A Vision Transformer of timm with its weights: normalised images in, patch tokens and attention out."""
