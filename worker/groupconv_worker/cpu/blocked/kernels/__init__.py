"""Compiled kernels on channel-blocked tensors."""
