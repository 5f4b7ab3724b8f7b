"""The plan of a quantized model: what computes in integers, and with which scales."""
