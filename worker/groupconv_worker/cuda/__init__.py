"""The CUDA engine: layouts, launches, memory, streams and errors around its kernels."""
