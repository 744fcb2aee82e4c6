"""The cost of a convolution, from its geometry: weights, multiply-adds, FLOPs, bytes."""

import math

import numpy as np

from groupconv.convolution.dtypes import Types
from groupconv.convolution.geometry import Geometry


def weights(g: Geometry) -> int:
    """Number of kernel weights without the bias: M·(C/g)·ΠK.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> weights(resolve(ConvSpec(groups=2, padding=2), (1, 96, 27, 27), (256, 48, 5, 5)))
        307200
    """
    return math.prod(g.weight_shape)


def multiply_adds(g: Geometry) -> int:
    """Multiply-adds of the whole batch, including taps on padding.

    N·M·(C/g)·ΠK·ΠH' for a convolution, N·C·(M/g)·ΠK·ΠH for a transposed one.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> multiply_adds(resolve(ConvSpec(padding=1), (1, 2, 4, 4), (3, 2, 3, 3)))
        864
    """
    return g.batch * weights(g) * math.prod(g.input if g.transposed else g.output)


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
