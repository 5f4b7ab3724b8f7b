"""Pruning of weights: candidates, importance, and selection up to a target."""
