"""Quantized models turned back into float ones."""
