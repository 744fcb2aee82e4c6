"""Ways to compute a convolution, one small file each."""
