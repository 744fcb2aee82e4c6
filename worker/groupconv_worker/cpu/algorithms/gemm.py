"""GEMM: patches of the input times the filters, one batched matrix product per group and block.

Written once over the array namespace, run by NumPy on the CPU and by CuPy on a GPU:

    cols = patches(x)          # (N, g, C/g·ΠK, P)      P output positions of a block
    y = filters @ cols         # (g, M/g, C/g·ΠK) @ (N, g, C/g·ΠK, P) -> (N, g, M/g, P)

The patches of the whole map are ΠK times the input, so they are made for blocks of output rows, as many as
fit the workspace. A pointwise convolution needs no patches: the input is the matrix.

Where the padded input would be far larger than input and output (`padding_dominates`), there is a product for each tap
and the inputs that it reads, so no padding is made. A transposed convolution is a product for each tap, or for each
input cell if those are fewer, added to the outputs that it reaches: no zeros between inputs are made either.
"""

import itertools
import math
from types import ModuleType
from typing import Any

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.threads import Team
from groupconv_worker.epilogue import add_bias
from groupconv_worker.job import current
from groupconv_worker.pieces import apply, copy
from groupconv_worker.taps import combinations, outputs_by_input, outputs_by_tap, padding_dominates, tap_inputs

WORKSPACE = 32 * 2**20
"""Bytes of patches made at a time."""
PARTS = 16
"""Parts of a product that threads share."""
THREAD_MACS = 200_000
"""Multiply-adds of a product below which a second thread costs more than it does."""
PIECE_MACS, SLOWER = 2**28, 32
"""Multiply-adds of a piece of a product: some 10 ms; so many times fewer of integers, which have no BLAS."""
SMALL_MACS = 500
"""Multiply-adds that the smallest product takes the time of."""


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
        if g.flip_kernel:
            w = xp.flip(w, axes)
        per_group = g.out_channels // g.groups
        if g.transposed:  # (C, M/g, *K) -> (g, M/g, C/g, *K)
            w = xp.moveaxis(w.reshape(g.groups, -1, per_group, *g.kernel), 1, 2)
        self.filters = xp.ascontiguousarray(w.reshape(g.groups, per_group, -1))
        self.padding_dominates = padding_dominates(g)
        self.bias = None if bias is None else xp.asarray(bias).astype(self.accumulate)

    @property
    def nbytes(self) -> int:
        return int(self.filters.nbytes) + (0 if self.bias is None else int(self.bias.nbytes))

    @np.errstate(all="ignore")  # NaN and infinity are data
    def run(self, x: Array, out: Array) -> None:
        xp, g = self.gemm.xp, self.geometry
        for n in range(x.shape[0]):
            sample = x[n] if x.dtype == self.accumulate else copy(x[n], xp.empty(x.shape[1:], self.accumulate))
            y = self._sample(sample.reshape(g.groups, g.in_channels // g.groups, *g.input))
            y = y.reshape(1, g.out_channels, *g.output)
            add_bias(y, self.bias)
            apply(y, g.activation)
            copy(y[0], out[n])

    def _sample(self, x: Any) -> Any:
        """x (g, C/g, *input) -> (g, M/g, *output), in the accumulator's dtype."""
        xp, g = self.gemm.xp, self.geometry
        if g.is_pointwise:
            return self._product(self.filters, x.reshape(*x.shape[:2], -1))
        if g.transposed:
            return self._scattered(x)
        depth = x.shape[1] * math.prod(g.kernel)
        row_bytes = g.groups * depth * math.prod(g.output[1:]) * self.accumulate.itemsize
        if self.padding_dominates or (g.rank > 1 and row_bytes > self.gemm.workspace):
            return self._by_taps(x)
        view = windows(widened(x, g, xp), g, xp)  # (g, C/g, *K, *output), no copy
        y = xp.empty((g.groups, g.out_channels // g.groups, *g.output), dtype=self.accumulate)
        rows = max(1, self.gemm.workspace // row_bytes)
        first = 2 + g.rank  # the axis of output rows in the view
        for start in range(0, g.output[0], rows):
            band = slice(start, min(start + rows, g.output[0]))
            block = view[(slice(None),) * first + (band,)]
            cols = block.reshape(g.groups, depth, -1)  # the copy that makes the patches
            y[:, :, band] = self._product(self.filters, cols).reshape(*y.shape[:2], -1, *g.output[1:])
        return y

    def _by_taps(self, x: Any) -> Any:
        """The same tap by tap: what a tap sees of x, times its weights."""
        g, w, y = self.geometry, self._by_axes(), self._zeros()
        for tap in itertools.product(*map(range, g.kernel)):
            y += self._times(w[..., *tap], tap_inputs(x, g, tap, self.gemm.xp))
        return y

    def _scattered(self, x: Any) -> Any:
        """A transposed convolution, by taps or by input cells, whichever are fewer."""
        g, w, y = self.geometry, self._by_axes(), self._zeros()
        if math.prod(g.kernel) <= math.prod(g.input):
            for met in combinations(g, outputs_by_tap):
                tap, cells, outputs = zip(*met, strict=True)
                y[..., *outputs] += self._times(w[..., *tap], x[..., *cells])
            return y
        w = w.swapaxes(1, 2)  # (g, C/g, M/g, *K): a cell is multiplied by the weights of all taps
        for met in combinations(g, outputs_by_input):
            cell, taps, outputs = zip(*met, strict=True)
            y[..., *outputs] += self._times(x[..., *cell][:, None], w[..., *taps])[:, 0]
        return y

    def _by_axes(self) -> Any:
        """The filters as (g, M/g, C/g, *K)."""
        g = self.geometry
        return self.filters.reshape(g.groups, g.out_channels // g.groups, -1, *g.kernel)

    def _zeros(self) -> Any:
        g = self.geometry
        return self.gemm.xp.zeros((g.groups, g.out_channels // g.groups, *g.output), dtype=self.accumulate)

    def _times(self, w: Any, x: Any) -> Any:
        """(g, M/g, C/g) times (g, C/g, *cells) -> (g, M/g, *cells)."""
        return self._product(w, x.reshape(*x.shape[:2], -1)).reshape(*w.shape[:2], *x.shape[2:])

    def _product(self, filters: Any, cols: Any) -> Any:
        """(g, M/g, D) @ (g, D, P) -> (g, M/g, P); integers too, in int32, which wraps.

        In pieces, along the groups if there are enough, for the threads and for a job that is over.
        """
        matmul, team = self.gemm.xp.matmul, self.gemm.team
        (groups, rows, depth), columns = filters.shape, cols.shape[2]
        macs = groups * max(SMALL_MACS, rows * columns * depth)
        pieces = -(-macs // (PIECE_MACS if self.accumulate.kind == "f" else PIECE_MACS // SLOWER))
        current().check()
        if macs >= THREAD_MACS and team is not None and team.threads > 1:
            pieces = max(PARTS, pieces)
        if pieces == 1:
            return matmul(filters, cols)
        y = self.gemm.xp.empty((groups, rows, columns), self.accumulate)

        @np.errstate(all="ignore")  # each thread has its own state
        def work(first: int, last: int) -> None:
            for piece in range(first, last):
                current().check()
                extent = groups if groups >= pieces else max(rows, columns)
                part = slice(piece * extent // pieces, (piece + 1) * extent // pieces)
                if part.start == part.stop:
                    continue
                if groups >= pieces:
                    matmul(filters[part], cols[part], out=y[part])
                elif columns >= rows:
                    matmul(filters, cols[:, :, part], out=y[:, :, part])
                else:
                    matmul(filters[:, part], cols, out=y[:, part])

        if team is None:
            work(0, pieces)
        else:
            team.run(work, pieces)
        return y


def widened(x: Any, g: Geometry, xp: ModuleType) -> Any:
    """x (g, C/g, *input) with its padding around it."""
    if not any(map(any, g.padding)):
        return x
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return xp.pad(x, ((0, 0), (0, 0), *g.padding), mode=mode[g.padding_mode])


def windows(x: Any, g: Geometry, xp: ModuleType) -> Any:
    """Every patch as a view: x (g, C/g, *padded) -> (g, C/g, *K, *output)."""
    strides = x.strides[2:]
    return xp.lib.stride_tricks.as_strided(
        x,
        shape=(*x.shape[:2], *g.kernel, *g.output),
        strides=(
            *x.strides[:2],
            *(b * d for b, d in zip(strides, g.dilation, strict=True)),
            *(b * s for b, s in zip(strides, g.stride, strict=True)),
        ),
    )
