"""Errors of a quantized model, tensor by tensor."""
