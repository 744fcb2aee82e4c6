"""The cost of a convolution, from its geometry: weights, multiply-adds, FLOPs, bytes."""

import math

import numpy as np

from groupconv.convolution.dtypes import Types
from groupconv.convolution.geometry import Geometry


def weights(g: Geometry) -> int:
    """Number of kernel weights, see `Geometry.weights`."""
    return g.weights


def multiply_adds(g: Geometry) -> int:
    """Multiply-adds of the whole batch, see `Geometry.multiply_adds`."""
    return g.multiply_adds


def flops(g: Geometry, *, bias: bool = False) -> int:
    """Floating-point operations: two per multiply-add, and one per output for a bias."""
    return 2 * multiply_adds(g) + (math.prod(g.output_shape) if bias else 0)


def nbytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Size of an array in bytes. Python's integers do not overflow, so any shape from a message is safe."""
    return math.prod(shape) * dtype.itemsize


def bytes_in(g: Geometry, types: Types) -> int:
    """Size of input and kernel in bytes."""
    return nbytes(g.input_shape, types.input) + nbytes(g.weight_shape, types.weight)


def bytes_out(g: Geometry, types: Types) -> int:
    """Size of the output in bytes."""
    return nbytes(g.output_shape, types.output)
