"""Writing a plan into a model: integer weights and biases, and Q/DQ nodes."""
