"""The definition of each operator in float64 NumPy, with which every program is compared."""
