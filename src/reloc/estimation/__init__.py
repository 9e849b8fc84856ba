"""From correspondences to poses. Every function returns None where it fails."""
