"""Strides of tensors, in elements: of C order, of broadcasting, and the fewest axes along which several are walked."""

import math
from collections.abc import Sequence


def dense(shape: Sequence[int]) -> list[int]:
    """The strides of a tensor in C order.

    Example:
        >>> dense((2, 3, 4))
        [12, 4, 1]
    """
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def broadcast(own: Sequence[int], shape: Sequence[int]) -> list[int]:
    """The strides of a tensor in C order that is broadcast to a shape.

    Example:
        >>> broadcast((3, 1), (2, 3, 4))
        [0, 1, 0]
    """
    own = (*(1,) * (len(shape) - len(own)), *own)
    return [0 if extent == 1 else step for extent, step in zip(own, dense(own), strict=True)]


def collapsed(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The axes of a shape without those of one element, neighbors merged where all tensors walk them as one axis.

    Args:
        shape: that is walked in C order.
        strides: of each tensor, along each axis of the shape.

    Returns:
        The extents of the axes that are left, at least one; and by tensor its strides along them.

    Example:
        >>> collapsed((2, 3, 4), [(12, 4, 1), (0, 0, 1)])
        ([6, 4], [[4, 1], [0, 1]])
    """
    extents, steps = [1], [[int(own[-1] if shape else 0)] for own in strides]
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1:
            continue
        if all(own[axis] == joined[0] * extents[0] for own, joined in zip(strides, steps, strict=True)):
            extents[0] *= shape[axis]
            continue
        if extents == [1]:
            extents[0] = shape[axis]
            for own, joined in zip(strides, steps, strict=True):
                joined[0] = own[axis]
            continue
        extents.insert(0, shape[axis])
        for own, joined in zip(strides, steps, strict=True):
            joined.insert(0, own[axis])
    return extents, steps
