"""From the cut of a model to ONNX files: tracing, passes, and external data."""
