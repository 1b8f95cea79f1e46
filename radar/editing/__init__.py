"""Holes in images: which cells are hidden, how they are filled, and how well."""
