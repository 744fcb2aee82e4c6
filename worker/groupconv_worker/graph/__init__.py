"""Graphs: whole networks in ONNX, what their operators cost, and who runs them."""
