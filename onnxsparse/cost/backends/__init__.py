"""Cost backends: the cost of a layer on a target. Their input is work items; they never import onnx."""
