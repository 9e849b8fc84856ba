"""Relative pose regression: where a query is as seen from mapping views that resemble it."""
