"""Pipelines of passes, from a recipe or from Python."""
