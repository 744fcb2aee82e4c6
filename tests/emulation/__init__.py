"""The CUDA engine without a GPU: kernels run as C++ on the CPU, CuPy is played by NumPy."""
