"""Allocentric memory: what lies where on the ground, and where a query fits it."""
