"""What surrounds the CUDA kernels: layouts, launches, memory, streams and errors."""
