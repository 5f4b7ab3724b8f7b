"""What activations do on data: one pass for their ranges, one for their histograms, memory bounded by tensors and bins."""
