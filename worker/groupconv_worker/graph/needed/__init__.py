"""Which part of each tensor of a graph is needed for a part of its outputs, and how a map may be cut into windows."""
