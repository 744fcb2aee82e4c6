"""Grouped convolution with the lanes along a row of the output: for groups of few channels, depthwise above all.

A block is F filters × R rows × V vectors of one group. Its accumulators stay in registers while the input rows
it needs pass once per input channel; each loaded vector serves every filter and every output row it meets.
Padding costs no copy: a row outside the input is replaced by a row of zeros, a column outside it by a masked load.
"""

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.kernels import simd
from groupconv_worker.cpu.kernels.atomic import LOOK, array, job, stopped
from groupconv_worker.cpu.kernels.forms import form
from groupconv_worker.cpu.kernels.simd import I64, MASKED_LOADS, Simd, i64, pointer


@intrinsic(prefer_literal=True)
def _block(_context, x, w, bias, y, zeros, size, at, relu, F, R, V, KH, KW, SH, SW, DH, DW, masked):
    """Compute one block.

    Args:
        x, w, bias, y, zeros: flat arrays; `zeros` is one input row of zeros.
        size: (C/g, H, W, H', W') as int64.
        at: offsets of the block's group in x, filter in w, bias and y; its first output row and column; low padding.
        relu: not 0 to clamp.
        F … DW: literals, the block's and the kernel's extents. masked: bit v·KW + k is set if what tap column k sees
            of vector v may leave the row.
    """
    literals = [t.literal_value for t in (F, R, V, KH, KW, SH, SW, DH, DW, masked)]
    signature = types.void(x, w, bias, y, zeros, size, at, relu, F, R, V, KH, KW, SH, SW, DH, DW, masked)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [pointer(context, builder, t, a) for t, a in zip(signature.args[:5], arguments[:5], strict=True)]
        sizes = cgutils.unpack_tuple(builder, arguments[5])
        places = cgutils.unpack_tuple(builder, arguments[6])
        relu = builder.icmp_signed("!=", arguments[7], i64(0))
        _Block(builder, arrays, sizes, places, literals).emit(relu)
        return context.get_dummy_value()

    return signature, generate


class _Block:
    """The emitter of one block; names as in `_block`."""

    def __init__(self, b: Any, arrays: list[Any], sizes: list[Any], places: list[Any], literals: list[int]) -> None:
        self.b, self.simd = b, Simd(b, arrays[0].type.pointee)
        self.x, self.w, self.bias, self.y, self.zeros = arrays
        self.channels, self.height, self.width, self.out_height, self.out_width = sizes
        self.x_at, self.w_at, self.bias_at, self.y_at, self.row, self.column, self.pad_row, self.pad_column = places
        self.F, self.R, self.V, self.KH, self.KW, self.SH, self.SW, self.DH, self.DW, self.masked = literals
        # depthwise: loads are as many as multiply-adds unless each vector of a row is loaded only once
        near = self.SW == 1 and 0 < (self.KW - 1) * self.DW <= self.simd.lanes
        self.slides = near and self.F == 1 and simd.WIDTH == 64
        self.broadcasts = simd.WIDTH == 32  # of 16 registers none is left for a weight that comes again

    def emit(self, relu: Any) -> None:
        b, simd = self.b, self.simd
        sums = self._start()
        self.left = b.sub(b.mul(self.column, i64(self.SW)), self.pad_column)  # input column of lane 0, tap 0
        self.top = b.sub(b.mul(self.row, i64(self.SH)), self.pad_row)
        if MASKED_LOADS:
            self._channels(self._masks(), sums)
        else:
            with b.if_else(self._inside(), likely=True) as (inside, edge):
                with inside:
                    self._channels({}, sums)
                with edge:
                    self._channels(self._masks(), sums)
        last = b.sub(self.out_width, b.add(self.column, i64((self.V - 1) * simd.lanes)))  # lanes of the last vector
        for r in range(self.R):
            row = b.add(self.row, i64(r))
            with b.if_then(b.icmp_signed("<", row, self.out_height)):
                for f in range(self.F):
                    self._store(f, row, [sums[f, r, v] for v in range(self.V)], relu, last)

    def _channels(self, masks: dict[tuple[int, int], list[Any]], sums: Any) -> None:
        """The rows of every input channel."""
        b = self.b
        plane = b.mul(self.height, self.width)
        taps = self.KH * self.KW
        with cgutils.for_range(b, self.channels, intp=I64) as loop:
            channel = b.gep(self.x, [b.add(self.x_at, b.mul(loop.index, plane))])
            weights = b.gep(self.w, [b.add(self.w_at, b.mul(loop.index, i64(taps)))])
            for offset, pairs in self._input_rows().items():
                emit = self._sliding_pass if self.slides else self._pass
                emit(self._row(channel, offset), weights, pairs, masks, sums)

    def _inside(self) -> Any:
        """Whether every vector that the block loads lies inside its row (i1)."""
        b, behind = self.b, self._column(self.V - 1, self.KW - 1) + self.SW * self.simd.lanes
        end = b.icmp_signed("<=", b.add(self.left, i64(behind)), self.width)
        return b.and_(b.icmp_signed(">=", self.left, i64(0)), end)

    def _start(self) -> dict[tuple[int, int, int], Any]:
        """Accumulators that begin with the bias."""
        b, sums = self.b, {}
        for f in range(self.F):
            bias = self.simd.splat(b.load(b.gep(self.bias, [b.add(self.bias_at, i64(f))])))
            for r in range(self.R):
                for v in range(self.V):
                    sums[f, r, v] = cgutils.alloca_once_value(b, bias)
        return sums

    def _masks(self) -> dict[tuple[int, int], list[Any]]:
        """For each vector and tap column that may leave the row, the lanes inside it."""
        masks = {}
        for v in range(self.V + self.slides):
            for k in range(1 if self.slides else self.KW):
                if not self._leaves(v, k):
                    continue
                start = self._column(v, k)
                masks[v, k] = [
                    self.simd.inside(self.b.add(self.left, i64(start + part * self.simd.lanes)), self.width)
                    for part in range(self.SW)
                ]
        return masks

    def _leaves(self, v: int, k: int) -> bool:
        """Whether a vector may leave the row; where a vector is loaded once for all its taps, whether any may."""
        if not self.slides:
            return bool(self.masked >> (v * self.KW + k) & 1)
        taps = (1 << self.KW) - 1
        return v in (0, self.V - 1, self.V) or bool(self.masked >> (v * self.KW) & taps)

    def _column(self, v: int, k: int) -> int:
        return v * self.simd.lanes * self.SW + k * self.DW

    def _input_rows(self) -> dict[int, list[tuple[int, int]]]:
        """Input row, from the block's top -> the (output row, kernel row) pairs it takes part in."""
        rows: dict[int, list[tuple[int, int]]] = {}
        for r in range(self.R):
            for ky in range(self.KH):
                rows.setdefault(r * self.SH + ky * self.DH, []).append((r, ky))
        return dict(sorted(rows.items()))

    def _row(self, channel: Any, offset: int) -> Any:
        """Address of the block's first column in an input row, in the zeros if the row is padding."""
        b = self.b
        row = b.add(self.top, i64(offset))
        inside = b.icmp_unsigned("<", row, self.height)
        place = b.select(inside, b.mul(row, self.width), i64(0))
        return b.gep(b.select(inside, channel, self.zeros), [b.add(place, self.left)])

    def _pass(self, row: Any, weights: Any, pairs: Any, masks: Any, sums: Any) -> None:
        """One input row against every output row, filter and tap column it meets."""
        uses = [(f, r, ky) for r, ky in pairs for f in range(self.F)]
        starts = self._filter_starts(weights)
        for k in range(self.KW):
            if self.broadcasts and len(uses) >= self.V:
                vectors = [self._vector(row, v, k, masks) for v in range(self.V)]
                for use in uses:
                    weight = self._weight(starts, use, k)
                    for v, vector in enumerate(vectors):
                        self._add(use, v, weight, vector, sums)
            else:
                seen = [self._weight(starts, use, k) for use in uses]
                for v in range(self.V):
                    vector = self._vector(row, v, k, masks)
                    for use, weight in zip(uses, seen, strict=True):
                        self._add(use, v, weight, vector, sums)

    def _filter_starts(self, weights: Any) -> list[Any]:
        """Where the block's filters begin, for one channel."""
        size = self.b.mul(self.channels, i64(self.KH * self.KW))
        return [self.b.gep(weights, [self.b.mul(size, i64(f))]) for f in range(self.F)]

    def _weight(self, starts: list[Any], use: tuple[int, int, int], k: int) -> Any:
        """The weight of filter f and kernel row ky, for output row r, in every lane."""
        f, r, ky = use
        tap = ky * self.KW + k
        if self.broadcasts:
            return self.simd.broadcast(starts[f], tap, r)
        return self.simd.splat(self.b.load(self.b.gep(starts[f], [i64(tap)])))

    def _add(self, use: tuple[int, int, int], v: int, weight: Any, vector: Any, sums: Any) -> None:
        total = sums[use[0], use[1], v]
        self.b.store(self.simd.multiply_add(weight, vector, self.b.load(total)), total)

    def _sliding_pass(self, row: Any, weights: Any, pairs: Any, masks: Any, sums: Any) -> None:
        """The same of one filter: what a tap column sees is cut from two neighbouring vectors of the row."""
        b, simd = self.b, self.simd
        whole = [self._vector(row, v, 0, masks) for v in range(self.V + 1)]
        for k in range(self.KW):
            seen = [simd.broadcast(weights, ky * self.KW + k, r) for r, ky in pairs]
            for v in range(self.V):
                vector = simd.slide(whole[v], whole[v + 1], k * self.DW)
                for (r, _), weight in zip(pairs, seen, strict=True):
                    b.store(simd.multiply_add(weight, vector, b.load(sums[0, r, v])), sums[0, r, v])

    def _vector(self, row: Any, v: int, k: int, masks: dict[tuple[int, int], list[Any]]) -> Any:
        """What a tap column sees of the row: every SW-th element."""
        start, inside = self._column(v, k), masks.get((v, k))
        places = [self.b.gep(row, [i64(start + part * self.simd.lanes)]) for part in range(self.SW)]
        if inside is None:
            parts = [self.simd.load(p) for p in places]
        else:
            parts = [self.simd.load_masked(p, m) for p, m in zip(places, inside, strict=True)]
        return parts[0] if self.SW == 1 else self.simd.every(self.SW, parts)

    def _store(self, f: int, row: Any, sums: list[Any], relu: Any, last: Any) -> None:
        b, simd = self.b, self.simd
        plane = b.mul(self.out_height, self.out_width)
        place = b.add(b.mul(plane, i64(f)), b.add(b.mul(row, self.out_width), self.column))
        start = b.gep(self.y, [b.add(self.y_at, place)])
        for v, total in enumerate(sums):
            value = simd.relu(b.load(total), relu)
            address = b.gep(start, [i64(v * simd.lanes)])
            if v == self.V - 1:
                simd.store_first(value, address, last)
            else:
                simd.store(value, address)


@form
def kernel(
    dtype: np.dtype, F: int, R: int, V: int, KH: int, KW: int, SH: int, SW: int, DH: int, DW: int, masked: int
) -> Any:
    """The compiled loop over blocks, for one block shape and one kernel, stride and dilation.

    Returns:
        A job with the words (x, w, bias, y, zeros, C/g, H, W, H', W', M/g, padding above, padding on the left, relu):
        x to zeros are flat and of one dtype, M/g is a multiple of F, a padding may be negative. There are
        g · M/g/F · ceil(H'/R) tasks.
    """
    lanes = simd.lanes(dtype.itemsize)

    @job(dtype, F, R, V, KH, KW, SH, SW, DH, DW, masked)
    def rows(at, first, last):
        words = array(at, np.int64)
        x, w, bias = array(words[0], dtype), array(words[1], dtype), array(words[2], dtype)
        y, zeros = array(words[3], dtype), array(words[4], dtype)
        channels, height, width, out_height, out_width = words[5], words[6], words[7], words[8], words[9]
        per_group, above, left, relu = words[10], words[11], words[12], words[13]
        size = (channels, height, width, out_height, out_width)
        filter_blocks = per_group // F
        row_blocks = (out_height + R - 1) // R
        unseen = every = 1 + LOOK // (channels * KH * KW)
        for task in range(first, last):
            # filters innermost: the rows they share stay in the cache
            band, block = divmod(task, filter_blocks)
            group, band = divmod(band, row_blocks)
            m = group * per_group + block * F
            for start in range(0, out_width, V * lanes):
                unseen -= 1
                if unseen <= 0:
                    if stopped(at):
                        return
                    unseen = every
                column = max(0, min(start, out_width - V * lanes))  # the last block overlaps its neighbour
                where = (
                    group * channels * height * width,
                    m * channels * KH * KW,
                    m,
                    m * out_height * out_width,
                    band * R,
                    column,
                    above,
                    left,
                )
                _block(x, w, bias, y, zeros, size, where, relu, F, R, V, KH, KW, SH, SW, DH, DW, masked)

    return rows.address
