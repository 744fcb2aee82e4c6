"""Whole networks in ONNX: models, checked; graphs of known shapes; what their operators compute, cost and need."""
