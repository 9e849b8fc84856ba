"""Scene coordinate regression: a network says which scene point each cell of a query shows."""
