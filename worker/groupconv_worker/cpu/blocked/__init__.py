"""Convolutions on channel-blocked tensors: the kernels of compiled networks."""
