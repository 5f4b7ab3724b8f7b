"""Predicted cost on a device."""
