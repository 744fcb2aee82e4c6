"""Compiled operators of networks, beside the convolutions."""
