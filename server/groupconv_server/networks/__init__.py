"""Networks: whole models in ONNX, loaded, kept and run."""
