"""Grids and tables."""
