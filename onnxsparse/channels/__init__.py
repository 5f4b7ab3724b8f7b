"""Whole channels: which axes move together, which of them to cut, the cut, and its proof."""
