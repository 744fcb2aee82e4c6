"""What each operator of a graph computes, in float64 NumPy: the measure of every program."""
