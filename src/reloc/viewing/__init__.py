"""Pictures and pages. Nothing here computes an error."""
