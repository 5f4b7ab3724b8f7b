"""Predicted or measured cost of a model on a device."""
