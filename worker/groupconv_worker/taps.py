"""Which cells a tap of a kernel meets, worked out axis by axis: no padding, and no zeros between inputs, are ever made.

What is laid out here is as large as the input or the output, whatever the padding, the stride and the dilation.
"""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from groupconv.convolution.geometry import Geometry

Met = tuple[int, slice, slice]
"""A tap (or an input cell), what it meets, and the outputs that it reaches there."""
LARGE = 2**22
"""Elements of a padded input up to which it may be as large as it likes."""
STRETCH = 8
"""How many times the cells of input and output together a larger one may have."""


def stretched(g: Geometry) -> bool:
    """Whether the input with its padding is large, and far larger than input and output.

    A few bytes can ask for that: by much padding with a large stride, or a large dilation. An algorithm that lays the
    padded input out would pay for cells that nobody sent and nobody gets.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> stretched(resolve(ConvSpec(padding=10**8, stride=10**8), (1, 1, 1), (1, 1, 1)))
        True
    """
    steps = (1,) * g.rank if g.transposed else g.stride
    seen = [(o - 1) * s + e for o, s, e in zip(g.output, steps, g.effective_kernel, strict=True)]
    if g.transposed:  # a phase sees every input once
        seen = [-(-cells // s) for cells, s in zip(seen, g.stride, strict=True)]
    cells = math.prod(seen)
    return g.in_channels * cells > LARGE and cells > STRETCH * (math.prod(g.input) + math.prod(g.output))


def seen(x: Any, g: Geometry, tap: tuple[int, ...], xp: ModuleType) -> Any:
    """What one tap of a convolution that is not transposed sees: its input for every output.

    Args:
        x: (…, *input).
        g: the geometry; its padding mode says what lies outside.
        tap: position in the kernel, one per axis.
        xp: numpy or cupy.

    Returns:
        (…, *output): a view of x, or a copy.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> g = resolve(ConvSpec(padding=1), (1, 1, 3), (1, 1, 3))
        >>> seen(np.array([5, 6, 7]), g, (0,), np).tolist()
        [0, 5, 6]
    """
    for axis, k in enumerate(tap):
        before = (slice(None),) * (x.ndim - g.rank + axis)
        h, s, count = g.input[axis], g.stride[axis], g.output[axis]
        first = k * g.dilation[axis] - g.padding[axis][0]
        found = reached(count, s, first, h)
        if found is not None and found[0] == slice(0, count):
            x = x[*before, found[1]]
        elif g.padding_mode == "zeros":
            zeros = xp.zeros((*x.shape[: len(before)], count, *x.shape[len(before) + 1 :]), x.dtype)
            if found is not None:
                zeros[*before, found[0]] = x[*before, found[1]]
            x = zeros
        else:
            cells = first + s * xp.arange(count)
            if g.padding_mode == "circular":
                cells %= h
            elif g.padding_mode == "reflect":
                cells = h - 1 - abs(h - 1 - abs(cells))
            x = x[*before, cells.clip(0, h - 1)]
    return x


def by_tap(g: Geometry, axis: int) -> Iterator[Met]:
    """Of each tap of a transposed axis that reaches outputs: the tap, the inputs that it meets there, the outputs."""
    for tap in range(g.kernel[axis]):
        at = tap * g.dilation[axis] - g.padding[axis][0]
        if found := reached(g.input[axis], g.stride[axis], at, g.output[axis]):
            yield tap, *found


def by_cell(g: Geometry, axis: int) -> Iterator[Met]:
    """Of each input of a transposed axis that reaches outputs: the input, the taps that it meets, the outputs."""
    for cell in range(g.input[axis]):
        at = cell * g.stride[axis] - g.padding[axis][0]
        if found := reached(g.kernel[axis], g.dilation[axis], at, g.output[axis]):
            yield cell, *found


def each(g: Geometry, of: Callable[[Geometry, int], Iterator[Met]], axis: int = 0) -> Iterator[tuple[Met, ...]]:
    """What `of` gives for each axis, in every combination. One at a time, as there may be millions."""
    if axis == g.rank:
        yield ()
        return
    for met in of(g, axis):
        for rest in each(g, of, axis + 1):
            yield met, *rest


def reached(count: int, step: int, first: int, extent: int) -> tuple[slice, slice] | None:
    """Which of the cells first, first + step, … (`count` of them) lie in 0 … extent - 1, and where; None if none do.

    Example:
        >>> reached(4, 3, -2, 6)
        (slice(1, 3, None), slice(1, 5, 3))
    """
    begin, end = max(0, -(first // step)), min(count, -((first - extent) // step))
    if begin >= end:
        return None
    return slice(begin, end), slice(first + begin * step, first + (end - 1) * step + 1, step)
