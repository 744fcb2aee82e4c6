"""Kernel argument structs of a network's operators, and the axes of strided tensors that they hold."""

from collections.abc import Sequence

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.graph.strides import collapsed

AXES = 6
"""`AXES` of kernels/strided.cuh: axes that a kernel counts, once neighbors are merged where they can be."""
OPERANDS, STEPS = 4, 8
"""Tensors that a chain of elementwise operators reads at most, and its steps at most."""
TYPES = {
    np.dtype(name): number
    for number, name in enumerate(("float32", "bool", "uint8", "int8", "int16", "uint16", "int32", "int64"))
}
"""`Type` of kernels/elements.cu."""
STEP = np.dtype(
    [("code", np.int32), ("b", np.int32), ("c", np.int32), ("p", np.float32), ("q", np.float32)], align=True
)
"""`Step` of kernels/elements.cu."""
ELEMENTS = np.dtype(
    [
        ("operand", np.uint64, OPERANDS),
        ("size", np.int64),
        ("extent", np.int64, AXES),
        ("step", np.int64, (OPERANDS, AXES)),
        ("type", np.int32, OPERANDS),
        ("to", np.int32),
        ("axes", np.int32),
        ("steps", np.int32),
        ("chain", STEP, STEPS),
    ],
    align=True,
)
"""`Elements` of kernels/elements.cu."""
POOL = np.dtype(
    [
        ("size", np.int64),
        *((name, np.int32, 3) for name in ("in", "out", "kernel", "stride", "dilation", "low", "stop")),
        ("average", np.int32),
        ("count_padding", np.int32),
    ],
    align=True,
)
"""`Pool` of kernels/pool.cu."""
ROWS = np.dtype(
    [
        ("rows", np.int64),
        ("count", np.int64),
        *((name, np.int64, AXES) for name in ("outer", "outer_step", "inner", "inner_step")),
        ("outer_axes", np.int32),
        ("inner_axes", np.int32),
    ],
    align=True,
)
"""`Rows` of kernels/rows.cu."""
COPY = np.dtype(
    [
        ("size", np.int64),
        ("extent", np.int64, AXES),
        ("from", np.int64),
        ("from_step", np.int64, AXES),
        ("to", np.int64),
        ("to_step", np.int64, AXES),
        ("axes", np.int32),
    ],
    align=True,
)
"""`Copy` of kernels/movement.cu."""


class TooManyAxesError(ValueError):
    """More axes are left of tensors that are walked together than a kernel counts."""


def fill_axes(extent: Array, shape: Sequence[int], *strides: tuple[Array, Sequence[int]]) -> int:
    """Write the axes along which tensors are walked into the fields of a struct; returns their number.

    Args:
        extent: the field of the axes' extents.
        shape: that is walked in C order.
        strides: by tensor, the field of its strides, and what they are along each axis of the shape.

    Raises:
        TooManyAxesError: more than `AXES` are left.

    Example:
        >>> struct = np.zeros((), COPY)
        >>> fill_axes(struct["extent"], (2, 1, 3, 4), (struct["from_step"], (12, 12, 4, 1)))
        1
        >>> struct["extent"].tolist(), struct["from_step"].tolist()
        ([24, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0])
    """
    extents, steps = collapsed(shape, [own for _, own in strides])
    if len(extents) > AXES:
        raise TooManyAxesError(f"{len(extents)} axes that lie across one another")
    extent[: len(extents)] = extents
    for (field, _), own in zip(strides, steps, strict=True):
        field[: len(extents)] = own
    return len(extents)
