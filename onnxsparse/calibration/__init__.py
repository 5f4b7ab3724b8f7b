"""Activations of a model on data: their ranges, histograms and channels, in memory bounded by tensors and bins."""
