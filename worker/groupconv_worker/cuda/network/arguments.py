"""Kernel argument structs of a network's operators, and the axes of strided tensors that they hold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from groupconv_worker.contract import Array

AXES = 6
"""`AXES` of kernels/strided.cuh: axes that are left once those that lie one behind another are one."""
OPERANDS, STEPS = 4, 8
"""Of a chain of operators of each element: tensors that it reads, and its length."""
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
    """Tensors lie across one another in more axes than a kernel counts."""


class Axes(NamedTuple):
    """The axes along which several tensors are walked together.

    Attributes:
        extents: of each axis.
        steps: by tensor, elements from one position to the next along each axis.
    """

    extents: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]

    def fill(self, struct: Array, extent: str, *steps: Any) -> int:
        """Write the axes into the fields of a struct; how many they are."""
        count = len(self.extents)
        struct[extent][:count] = self.extents
        for field, step in zip(steps, self.steps, strict=True):
            field[:count] = step
        return count


def axes_of(shape: Sequence[int], *steps: Sequence[int]) -> Axes:
    """The fewest axes for a shape: those of one element are left out, and those that all tensors have in one.

    Args:
        shape: that is walked, row by row.
        steps: of each tensor, elements from one position to the next along each axis of the shape.

    Raises:
        TooManyAxesError: more than `AXES` are left.

    Example:
        >>> axes_of((2, 1, 3, 4), (12, 12, 4, 1), (0, 0, 4, 1))
        Axes(extents=(2, 12), steps=((12, 1), (0, 1)))
    """
    extents: list[int] = []
    found: list[list[int]] = [[] for _ in steps]
    for axis, extent in enumerate(shape):
        if extent == 1:
            continue
        if extents and all(own[-1] == step[axis] * extent for own, step in zip(found, steps, strict=True)):
            extents[-1] *= extent
            for own, step in zip(found, steps, strict=True):
                own[-1] = step[axis]
            continue
        extents.append(extent)
        for own, step in zip(found, steps, strict=True):
            own.append(step[axis])
    if len(extents) > AXES:
        raise TooManyAxesError(f"{len(extents)} axes that lie across one another")
    return Axes(tuple(extents), tuple(map(tuple, found)))


def dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements from one position to the next along each axis of a tensor in C order.

    Example:
        >>> dense((2, 3, 4))
        (12, 4, 1)
    """
    steps, step = [], 1
    for extent in reversed(shape):
        steps.append(step)
        step *= extent
    return tuple(reversed(steps))


def broadcast(own: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The steps of a tensor in C order that is broadcast to a shape.

    Example:
        >>> broadcast((3, 1), (2, 3, 4))
        (0, 1, 0)
    """
    own = (*(1,) * (len(shape) - len(own)), *own)
    return tuple(0 if extent == 1 else step for extent, step in zip(own, dense(own), strict=True))
