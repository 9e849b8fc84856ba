"""Scenes and their layouts on disk."""
