"""The inputs that each tap of a kernel reads, and the outputs that they reach, without making padding.

Neither padding nor the zeros between the inputs of a transposed convolution are ever in memory: arrays are as large as
the input or the output, whatever padding, stride and dilation are.
"""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from groupconv.convolution.geometry import Geometry

Overlap = tuple[int, slice, slice]
"""A tap and the inputs that it reads, or an input and the taps that read it; and the outputs that they add to."""
LARGE = 2**22
"""Elements of a padded input up to which padding never dominates."""
STRETCH = 8
"""Padding dominates a larger one if it has more than so many times the cells of input and output together."""


def padding_dominates(g: Geometry) -> bool:
    """Whether the padded input is large, and far larger than input and output.

    A request of a few bytes can ask for that, by much padding with a large stride, or a large dilation. Algorithms that
    make the padded input do not take such problems.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> padding_dominates(resolve(ConvSpec(padding=10**8, stride=10**8), (1, 1, 1), (1, 1, 1)))
        True
    """
    steps = (1,) * g.rank if g.transposed else g.stride
    seen = [(o - 1) * s + e for o, s, e in zip(g.output, steps, g.effective_kernel, strict=True)]
    if g.transposed:  # a phase sees every input once
        seen = [-(-cells // s) for cells, s in zip(seen, g.stride, strict=True)]
    cells = math.prod(seen)
    return g.in_channels * cells > LARGE and cells > STRETCH * (math.prod(g.input) + math.prod(g.output))


def tap_inputs(x: Any, g: Geometry, tap: tuple[int, ...], xp: ModuleType) -> Any:
    """The input that one tap of a convolution reads for every output; not for transposed convolutions.

    Args:
        x: (…, *input).
        g: the geometry; its padding mode gives the values outside of x.
        tap: position in the kernel, one per axis.
        xp: numpy or cupy.

    Returns:
        (…, *output): a view of x, or a copy.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> g = resolve(ConvSpec(padding=1), (1, 1, 3), (1, 1, 3))
        >>> tap_inputs(np.array([5, 6, 7]), g, (0,), np).tolist()
        [0, 5, 6]
    """
    for axis, k in enumerate(tap):
        before = (slice(None),) * (x.ndim - g.rank + axis)
        h, s, count = g.input[axis], g.stride[axis], g.output[axis]
        first = k * g.dilation[axis] - g.padding[axis][0]
        ranges = overlap(count, s, first, h)
        if ranges is not None and ranges[0] == slice(0, count):
            x = x[*before, ranges[1]]
        elif g.padding_mode == "zeros":
            zeros = xp.zeros((*x.shape[: len(before)], count, *x.shape[len(before) + 1 :]), x.dtype)
            if ranges is not None:
                zeros[*before, ranges[0]] = x[*before, ranges[1]]
            x = zeros
        else:
            cells = first + s * xp.arange(count)
            if g.padding_mode == "circular":
                cells %= h
            elif g.padding_mode == "reflect":
                cells = h - 1 - abs(h - 1 - abs(cells))
            x = x[*before, cells.clip(0, h - 1)]
    return x


def outputs_by_tap(g: Geometry, axis: int) -> Iterator[Overlap]:
    """Each tap of a transposed axis that adds to outputs, with the inputs that it reads and those outputs."""
    for tap in range(g.kernel[axis]):
        at = tap * g.dilation[axis] - g.padding[axis][0]
        if ranges := overlap(g.input[axis], g.stride[axis], at, g.output[axis]):
            yield tap, *ranges


def outputs_by_input(g: Geometry, axis: int) -> Iterator[Overlap]:
    """Each input of a transposed axis that is added to outputs, with the taps that read it and those outputs."""
    for cell in range(g.input[axis]):
        at = cell * g.stride[axis] - g.padding[axis][0]
        if ranges := overlap(g.kernel[axis], g.dilation[axis], at, g.output[axis]):
            yield cell, *ranges


def combinations(
    g: Geometry, of: Callable[[Geometry, int], Iterator[Overlap]], axis: int = 0
) -> Iterator[tuple[Overlap, ...]]:
    """All combinations of what `of` gives for each axis, one at a time, as there may be millions."""
    if axis == g.rank:
        yield ()
        return
    for met in of(g, axis):
        for rest in combinations(g, of, axis + 1):
            yield met, *rest


def overlap(count: int, step: int, first: int, extent: int) -> tuple[slice, slice] | None:
    """The part of the cells first, first + step, … (`count` of them) that lies in 0 … extent - 1; None if none does.

    Returns:
        The numbers of those cells among all, and the cells.

    Example:
        >>> overlap(4, 3, -2, 6)
        (slice(1, 3, None), slice(1, 5, 3))
    """
    begin, end = max(0, -(first // step)), min(count, -((first - extent) // step))
    if begin >= end:
        return None
    return slice(begin, end), slice(first + begin * step, first + (end - 1) * step + 1, step)
