"""ONNX graphs with int8 weights and dynamic activations, for onnxruntime."""
