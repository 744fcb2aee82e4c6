"""The server: what decides how a convolution is cut, and who runs which part."""
