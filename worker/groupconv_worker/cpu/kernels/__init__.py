"""Compiled kernels that the algorithms launch."""
