"""What quantization did to a model, tensor by tensor."""
