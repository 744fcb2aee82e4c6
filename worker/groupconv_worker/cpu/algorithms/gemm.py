"""GEMM: patches of the input times the filters, one batched matrix product per group and block.

Written once over the array namespace, run by NumPy on the CPU and by CuPy on a GPU:

    cols = patches(x)          # (N, g, C/g·ΠK, P)      P output positions of a block
    y = filters @ cols         # (g, M/g, C/g·ΠK) @ (N, g, C/g·ΠK, P) -> (N, g, M/g, P)

The patches of the whole map are ΠK times the input, so they are made for blocks of output rows, as many as
fit the workspace. A pointwise convolution needs no patches: the input is the matrix. A transposed convolution
is the convolution of its zero-interleaved input with the flipped kernel at stride 1.
"""

import math
from types import ModuleType
from typing import Any

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.threads import Team
from groupconv_worker.epilogue import activate, add_bias

WORKSPACE = 32 * 2**20
"""Bytes of patches made at a time."""


PARTS = 16
"""Parts of a product that threads share."""


class Gemm:
    """The algorithm that takes every problem.

    Args:
        xp: numpy or cupy.
        erf: the error function of that namespace, for gelu.
        workspace: bytes of patches made at a time; at least one output row is always made.
        team: the threads that share a product (NumPy's BLAS has one); None leaves them to the namespace.
    """

    name = "gemm"

    def __init__(self, xp: ModuleType, erf: Any, workspace: int = WORKSPACE, team: Team | None = None) -> None:
        self.xp, self.erf, self.workspace, self.team = xp, erf, workspace, team

    def supports(self, problem: Problem) -> bool:  # noqa: ARG002 - every problem is
        """True: this is the fallback."""
        return True

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:  # noqa: ARG002
        """Lay the filters out as (g, M/g, C/g·ΠK) in the accumulator's dtype."""
        return _PreparedGemm(self, problem, weight, bias)


class _PreparedGemm:
    algorithm = "gemm"

    def __init__(self, gemm: Gemm, problem: Problem, weight: Array, bias: Array | None) -> None:
        xp, g = gemm.xp, problem.geometry
        self.gemm, self.geometry, self.accumulate = gemm, g, problem.types.accumulate
        w = xp.asarray(weight).astype(self.accumulate)
        axes = tuple(range(2, w.ndim))
        if g.flip_kernel != g.transposed:  # the transposed form convolves with the flipped kernel
            w = xp.flip(w, axes)
        per_group = g.out_channels // g.groups
        if g.transposed:  # (C, M/g, *K) -> (g, M/g, C/g, *K)
            w = xp.moveaxis(w.reshape(g.groups, -1, per_group, *g.kernel), 1, 2)
        self.filters = xp.ascontiguousarray(w.reshape(g.groups, per_group, -1))
        self.bias = None if bias is None else xp.asarray(bias).astype(self.accumulate)

    @property
    def nbytes(self) -> int:
        return int(self.filters.nbytes) + (0 if self.bias is None else int(self.bias.nbytes))

    @np.errstate(all="ignore")  # NaN and infinity are data
    def run(self, x: Array, out: Array) -> None:
        xp, g = self.gemm.xp, self.geometry
        for n in range(x.shape[0]):
            sample = xp.asarray(x[n]).astype(self.accumulate, copy=False)
            y = self._sample(sample.reshape(g.groups, g.in_channels // g.groups, *g.input))
            y = y.reshape(1, g.out_channels, *g.output)
            add_bias(y, self.bias)
            activate(y, g.activation, xp, self.gemm.erf)
            out[n] = y[0].astype(out.dtype, copy=False)

    def _sample(self, x: Any) -> Any:
        """x (g, C/g, *input) -> (g, M/g, *output), in the accumulator's dtype."""
        xp, g = self.gemm.xp, self.geometry
        if g.is_pointwise:
            return self._product(x.reshape(*x.shape[:2], -1))
        view = windows(widened(x, g, xp), g, xp)  # (g, C/g, *K, *output), no copy
        depth = x.shape[1] * math.prod(g.kernel)
        y = xp.empty((g.groups, g.out_channels // g.groups, *g.output), dtype=self.accumulate)
        row_bytes = g.groups * depth * math.prod(g.output[1:]) * self.accumulate.itemsize
        rows = max(1, self.gemm.workspace // row_bytes)
        first = 2 + g.rank  # the axis of output rows in the view
        for start in range(0, g.output[0], rows):
            band = slice(start, min(start + rows, g.output[0]))
            block = view[(slice(None),) * first + (band,)]
            cols = block.reshape(g.groups, depth, -1)  # the copy that makes the patches
            y[:, :, band] = self._product(cols).reshape(*y.shape[:2], -1, *g.output[1:])
        return y

    def _product(self, cols: Any) -> Any:
        """(g, M/g, D) @ (g, D, P) -> (g, M/g, P); integers too, in int32, which wraps."""
        matmul, team = self.gemm.xp.matmul, self.gemm.team
        if team is None or team.threads == 1:
            return matmul(self.filters, cols)
        rows, columns = self.filters.shape[1], cols.shape[2]
        y = self.gemm.xp.empty((*self.filters.shape[:2], columns), self.accumulate)

        @np.errstate(all="ignore")  # each thread has its own state
        def work(first: int, last: int) -> None:
            if columns >= rows:
                part = slice(first * columns // PARTS, last * columns // PARTS)
                matmul(self.filters, cols[:, :, part], out=y[:, :, part])
            else:
                part = slice(first * rows // PARTS, last * rows // PARTS)
                matmul(self.filters[:, part], cols, out=y[:, part])

        team.run(work, PARTS)
        return y


def widened(x: Any, g: Geometry, xp: ModuleType) -> Any:
    """x (g, C/g, *input) with its padding around it (transposed: its zeros between as well)."""
    if not g.transposed:
        if not any(map(any, g.padding)):
            return x
        mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        return xp.pad(x, ((0, 0), (0, 0), *g.padding), mode=mode[g.padding_mode])
    # output cell 0 is reached by taps at offset d·(K-1) - p before input cell 0; a negative offset crops
    reach = [e - 1 for e in g.effective_kernel]
    extents = tuple(o + r for o, r in zip(g.output, reach, strict=True))
    wide = xp.zeros((*x.shape[:2], *extents), dtype=x.dtype)
    into, taken = [], []
    for h, s, r, (lo, _), extent in zip(g.input, g.stride, reach, g.padding, extents, strict=True):
        offset = r - lo
        skipped = max(0, math.ceil(-offset / s))
        first = offset + skipped * s
        count = max(0, min(h - skipped, math.ceil((extent - first) / s)))
        into.append(slice(first, first + (count - 1) * s + 1 if count else first, s))
        taken.append(slice(skipped, skipped + count))
    wide[(..., *into)] = x[(..., *taken)]
    return wide


def windows(x: Any, g: Geometry, xp: ModuleType) -> Any:
    """Every patch as a view: x (g, C/g, *padded) -> (g, C/g, *K, *output)."""
    strides = x.strides[2:]
    step = (1,) * g.rank if g.transposed else g.stride
    return xp.lib.stride_tricks.as_strided(
        x,
        shape=(*x.shape[:2], *g.kernel, *g.output),
        strides=(
            *x.strides[:2],
            *(b * d for b, d in zip(strides, g.dilation, strict=True)),
            *(b * s for b, s in zip(strides, step, strict=True)),
        ),
    )
