"""Scene coordinate forests: trees of pixel differences say which scene points a pixel may show."""
