"""Passes in a row, from a recipe or from Python."""
