"""Errors of poses, and the tables made of them. Numbers only: nothing here draws."""
