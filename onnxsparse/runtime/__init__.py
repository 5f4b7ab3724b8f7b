"""Models run and compared in onnxruntime."""
