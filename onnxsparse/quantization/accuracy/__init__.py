"""Methods that improve the accuracy of a quantized model."""
