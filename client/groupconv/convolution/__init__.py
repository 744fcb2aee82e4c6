"""What a convolution is, without I/O."""
