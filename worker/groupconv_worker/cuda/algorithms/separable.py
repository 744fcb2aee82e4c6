"""Depthwise kernels of rank 1 in two passes on the device: K × 1, then 1 × K; 2K products for K².

    w[m] = u ⊗ v   =>   y = (x ⋆ u along the height) ⋆ v along the width

Padding separates in the same way: zeros, reflection, repetition and wrapping each act on one axis at a time.
"""

import math
from dataclasses import replace
from typing import Any

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms.base import DeviceKernel, UnsupportedProblemError
from groupconv_worker.cuda.algorithms.grouped import Grouped
from groupconv_worker.cuda.device import Device, device_types

LEAST_EXTENT = 5
"""The smallest extent of a kernel that is split: one pass over 9 taps costs less than storing the map in between."""


class Separable(DeviceKernel):
    """Two-dimensional depthwise convolutions of float32 or float64 whose kernels are all of rank 1.

    Raises:
        UnsupportedProblemError: a kernel is not of rank 1, as far as its dtype can tell.
    """

    algorithm, sums_products = "separable", False

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        if (factors := _factors(problem, weight)) is None:
            raise UnsupportedProblemError("the kernels are not of rank 1")
        column, row = factors  # (M, K), (M, L)
        first, second = _passes(problem)
        super().__init__(device, first, weight, None)  # bias and activation belong to the second pass
        self._between = first.geometry.output
        self._column = Grouped(device, first, column[:, None, :, None], None)
        self._row = Grouped(device, second, row[:, None, None, :], bias)

    @classmethod
    def supports(cls, problem: Problem) -> bool:
        """By shape and dtype. Whether the kernels are of rank 1, the constructor finds out."""
        g, types = problem.geometry, device_types(problem.types)
        if g.rank != 2 or g.in_channels != g.groups or g.transposed or min(g.kernel) < 2:
            return False
        if types.input.kind != "f" or types.input.itemsize < 4:
            return False
        return all(Grouped.supports(p) for p in _passes(problem))

    @classmethod
    def traits(cls, problem: Problem, weight: Array, bias: Array | None) -> str:  # noqa: ARG003 - any bias will do
        """Whether the kernels are of rank 1."""
        return "" if _factors(problem, weight) is None else "rank 1"

    @property
    def nbytes(self) -> int:
        return self._column.nbytes + self._row.nbytes

    def workspace(self, batch: int, groups: int) -> int:
        return batch * groups * self.outputs * math.prod(self._between) * self.types.output.itemsize

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        between = self.device.cupy.empty((*y.shape[:2], *self._between), x.dtype)
        self._column.launch(x, between, first_group, budget)
        self._row.launch(between, y, first_group * self.outputs, budget)


def _factors(problem: Problem, weight: Array) -> tuple[Array, Array] | None:
    """The columns (M, K) and rows (M, L) of depthwise kernels; None if one is not of rank 1."""
    from groupconv_worker.cpu.algorithms.separable import rank_one  # loads Numba, which only this needs

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
