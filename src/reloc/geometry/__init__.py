"""Transforms, cameras and rotations: pure torch, no input or output."""
