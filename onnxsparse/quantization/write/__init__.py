"""Weights, biases and quantizers written into a model."""
