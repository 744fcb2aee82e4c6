"""How the cuda engine computes a convolution, one file each."""
