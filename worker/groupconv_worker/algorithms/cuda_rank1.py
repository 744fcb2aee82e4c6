"""Depthwise kernels of rank 1 in two passes on the device: K × 1, then 1 × K; 2K products for K².

    w[m] = u ⊗ v   =>   y = (x ⋆ u along the height) ⋆ v along the width

Padding falls apart the same way: zeros, reflection, repetition and wrapping all act on one axis at a time.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from groupconv_worker.algorithms.cuda_grouped import Grouped
from groupconv_worker.cuda.device import Device, device_types
from groupconv_worker.cuda.kernel import DeviceKernel
from groupconv_worker.engines.base import Array, Problem

LEAST_EXTENT = 5
"""Below, one pass over 9 taps costs less than storing and reading the map once more."""


class Rank1:
    """Two-dimensional depthwise convolutions of float32 or float64 whose kernels are all of rank 1.

    Args:
        device: where.
    """

    name = "rank1"

    def __init__(self, device: Device) -> None:
        self._grouped = Grouped(device)
        self._device = device

    def supports(self, problem: Problem) -> bool:
        """By shape; whether the kernels are of rank 1 their values say (`fits`)."""
        g, types = problem.geometry, device_types(problem.types)
        if g.rank != 2 or g.in_channels != g.groups or g.transposed or min(g.kernel) < 2:
            return False
        if types.input.kind != "f" or types.input.itemsize < 4:
            return False
        return all(self._grouped.supports(p) for p in _passes(problem))

    def fits(self, weight: Array) -> bool:
        """Whether every kernel is of rank 1, as far as its dtype can tell."""
        return factors(weight) is not None

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """Factor the kernels; only if `fits`."""
        found = factors(weight)
        assert found is not None, "ask fits() first"
        first, second = _passes(problem)
        column, row = found
        passes = self._grouped.prepare(first, column, None), self._grouped.prepare(second, row, bias)
        return _Rank1(self._device, first, *passes)


class _Rank1:
    algorithm = "rank1"

    def __init__(self, device: Device, first: Problem, column: DeviceKernel, row: DeviceKernel) -> None:
        self._device, self._first, self._column, self._row = device, first.geometry, column, row
        self._itemsize = first.types.output.itemsize

    def workspace(self, batch: int, groups: int) -> int:
        filters = self._first.out_channels // self._first.groups
        return batch * groups * filters * int(np.prod(self._first.output, dtype=np.int64)) * self._itemsize

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        between = self._device.cupy.empty((*y.shape[:2], *self._first.output), x.dtype)
        self._column.launch(x, between, first_group, budget)
        filters = self._first.out_channels // self._first.groups
        self._row.launch(between, y, first_group * filters, budget)


def factors(weight: Array) -> tuple[Array, Array] | None:
    """weight (M, 1, K, L) as columns (M, 1, K, 1) and rows (M, 1, 1, L), or None if one is not of rank 1.

    The row through the largest element and the column through it span a matrix of rank 1; the rest must be
    rounding: a few units in the last place of the largest element.

    Example:
        >>> w = np.array([[3., 6., 9.], [4., 8., 12.], [5., 10., 15.]]).reshape(1, 1, 3, 3)
        >>> column, row = factors(w)
        >>> bool((column * row == w).all())
        True
    """
    w = weight[:, 0].astype(np.float64)  # (M, K, L)
    if not np.isfinite(w).all():
        return None
    flat = np.abs(w).reshape(len(w), -1)
    peak = flat.argmax(axis=1)
    i, j = np.divmod(peak, w.shape[2])
    m = np.arange(len(w))
    largest = w[m, i, j]
    column = w[m, :, j]
    row = np.divide(w[m, i], largest[:, None], out=np.zeros_like(w[m, i]), where=largest[:, None] != 0)
    unit = float(np.finfo(weight.dtype).eps) if weight.dtype.kind == "f" else 2.0**-7
    error = np.abs(column[:, :, None] * row[:, None] - w).reshape(len(w), -1).max(axis=1)
    if (error > 4 * unit * np.abs(largest)).any():
        return None
    return column[:, None, :, None], row[:, None, None, :]


def _passes(problem: Problem) -> tuple[Problem, Problem]:
    """The two convolutions: along the height for every filter, then along the width for every result."""
    g, wide = problem.geometry, device_types(problem.types)
    first = replace(
        g,
        kernel=(g.kernel[0], 1),
        output=(g.output[0], g.input[1]),
        stride=(g.stride[0], 1),
        padding=(g.padding[0], (0, 0)),
        dilation=(g.dilation[0], 1),
        activation=None,
    )
    second = replace(
        g,
        in_channels=g.out_channels,
        groups=g.out_channels,
        input=first.output,
        kernel=(1, g.kernel[1]),
        stride=(1, g.stride[1]),
        padding=((0, 0), g.padding[1]),
        dilation=(1, g.dilation[1]),
    )
    return Problem(first, wide), Problem(second, wide)
