"""Depthwise kernels of rank 1 in two passes on the device: K × 1, then 1 × K; 2K products for K².

    w[m] = u ⊗ v   =>   y = (x ⋆ u along the height) ⋆ v along the width

Padding falls apart the same way: zeros, reflection, repetition and wrapping all act on one axis at a time.
"""

import math
from dataclasses import replace
from typing import Any

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms.grouped import CudaGrouped
from groupconv_worker.cuda.device import Device, device_types
from groupconv_worker.cuda.kernel import DeviceKernel

LEAST_EXTENT = 5
"""Below, one pass over 9 taps costs less than storing and reading the map once more."""


class CudaSeparable:
    """Two-dimensional depthwise convolutions of float32 or float64 whose kernels are all of rank 1.

    Args:
        device: where.
    """

    name = "separable"

    def __init__(self, device: Device) -> None:
        self._grouped = CudaGrouped(device)
        self._device = device

    def supports(self, problem: Problem) -> bool:
        """By shape; whether the kernels are of rank 1 their values say (`accepts`)."""
        g, types = problem.geometry, device_types(problem.types)
        if g.rank != 2 or g.in_channels != g.groups or g.transposed or min(g.kernel) < 2:
            return False
        if types.input.kind != "f" or types.input.itemsize < 4:
            return False
        return all(self._grouped.supports(p) for p in _passes(problem))

    def accepts(self, problem: Problem, weight: Array) -> bool:
        """Whether every kernel is of rank 1, as far as its dtype can tell."""
        return _factors(problem, weight) is not None

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """Factor the kernels.

        Raises:
            ValueError: they are not of rank 1 (`accepts`).
        """
        if (factors := _factors(problem, weight)) is None:
            msg = "the kernels are not of rank 1"
            raise ValueError(msg)
        first, second = _passes(problem)
        u, v = factors  # (M, K), (M, L)
        column = self._grouped.prepare(first, u[:, None, :, None], None)
        row = self._grouped.prepare(second, v[:, None, None, :], bias)
        return _Separable(self._device, first, column, row)


class _Separable:
    algorithm = "separable"

    def __init__(self, device: Device, first: Problem, column: DeviceKernel, row: DeviceKernel) -> None:
        self._device, self._first, self._column, self._row = device, first.geometry, column, row
        self._itemsize = first.types.output.itemsize

    @property
    def nbytes(self) -> int:
        """As of `DeviceKernel`."""
        return self._column.nbytes + self._row.nbytes

    def workspace(self, batch: int, groups: int) -> int:
        filters = self._first.out_channels // self._first.groups
        return batch * groups * filters * math.prod(self._first.output) * self._itemsize

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        between = self._device.cupy.empty((*y.shape[:2], *self._first.output), x.dtype)
        self._column.launch(x, between, first_group, budget)
        filters = self._first.out_channels // self._first.groups
        self._row.launch(between, y, first_group * filters, budget)


def _factors(problem: Problem, weight: Array) -> tuple[Array, Array] | None:
    """The columns (M, K) and rows (M, L) of weight (M, 1, K, L), or None."""
    from groupconv_worker.cpu.algorithms.separable import rank_one  # brings Numba along, which only this needs

    return rank_one(weight[:, 0].astype(problem.types.accumulate))


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
