"""Arrays on a CUDA device, and the few calls of its driver that they need."""
