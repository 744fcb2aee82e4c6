"""CUDA graphs: the capture of a run that is launched again, and which of them are kept."""
