"""Network parts and descriptors that several methods share."""
