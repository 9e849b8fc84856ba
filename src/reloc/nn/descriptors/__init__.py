"""Descriptors of whole images: vectors whose inner product says how alike two images are."""
