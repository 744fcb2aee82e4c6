"""The CPU engine: algorithms, compiled kernels, threads."""
