"""Image retrieval: the most similar mapping images say where a query is."""
