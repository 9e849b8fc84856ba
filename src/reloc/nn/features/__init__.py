"""Learned detectors and descriptors of local features, each with its network."""
