"""Whole networks on a GPU: a bound graph as a list of launches over one arena, recorded as one CUDA graph."""
