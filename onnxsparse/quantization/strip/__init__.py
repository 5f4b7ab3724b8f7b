"""Removal of scales: quantized models back to float ones."""
