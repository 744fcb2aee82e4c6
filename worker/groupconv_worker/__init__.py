"""The worker: what runs a shard of a convolution on one device."""
