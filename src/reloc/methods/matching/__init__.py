"""Feature matching: 2D-3D correspondences, then a robust pose."""
