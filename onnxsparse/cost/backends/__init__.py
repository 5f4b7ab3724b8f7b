"""Cost backends: what a model's layers cost on a target. They see work items, never onnx."""
