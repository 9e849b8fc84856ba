"""Absolute pose regression: a network that is shown an image answers with its pose."""
