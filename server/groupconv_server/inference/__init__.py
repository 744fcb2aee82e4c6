"""The Open Inference Protocol v2 with Triton's extensions: every resident layer is a model, `x` to `y`."""
