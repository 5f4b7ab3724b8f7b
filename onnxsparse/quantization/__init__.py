"""Quantization: targets, placement and choice of scales, Q/DQ insertion, and diagnosis."""
