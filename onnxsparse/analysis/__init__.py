"""What is true of a model: layers, shapes, constants, types."""
