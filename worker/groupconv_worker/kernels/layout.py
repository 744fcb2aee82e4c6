"""Copies between layouts that NumPy does not do at the speed of memory."""

from typing import Any

import numpy as np
from numba import from_dtype, njit, types
from numba.extending import intrinsic

from groupconv_worker.kernels.simd import Simd, i64, pointer

DTYPES = tuple(from_dtype(np.dtype(name)) for name in ("float32", "float64", "int32"))


def _flat(element: Any, *, readonly: bool = False) -> Any:
    return types.Array(element, 1, "C", readonly=readonly)


_SIZE = types.UniTuple(types.int64, 7)
_SPREAD = [types.void(_flat(e, readonly=True), _flat(e), _SIZE, types.int64, types.int64) for e in DTYPES]


@njit(_SPREAD, nogil=True, cache=True)
def spread(x, out, size, first, last):
    """Copy x (C, H, W) into out (rows, C, s, extent) with zeros around it and the columns sorted by phase.

    out[h, c, f, j] = x[c, h - low, j·s + f - left], or 0 outside.

    Args:
        x, out: flat arrays of one dtype.
        size: (C, H, W, low, left, s, extent); low and left may be negative.
        first, last: the rows of `out` to fill.
    """
    channels, height, width, low, left, step, extent = size
    for h in range(first, last):
        row = h - low
        for c in range(channels):
            for phase in range(step):
                start = ((h * channels + c) * step + phase) * extent
                begin = min(extent, max(0, (left - phase + step - 1) // step))
                end = min(extent, max(begin, (width - 1 - phase + left) // step + 1))
                if not 0 <= row < height:
                    begin = end = extent
                source = (c * height + row) * width + phase - left
                for j in range(begin):
                    out[start + j] = 0
                if step == 1:  # apart, so that the compiler sees a contiguous copy
                    for j in range(begin, end):
                        out[start + j] = x[source + j]
                else:
                    for j in range(begin, end):
                        out[start + j] = x[source + j * step]
                for j in range(end, extent):
                    out[start + j] = 0


_FOUR = types.UniTuple(types.int64, 4)
_WEAVE = [
    types.void(types.Array(e, 3, "C", readonly=True), types.Array(e, 3, "C"), _FOUR, types.int64, types.int64)
    for e in DTYPES
]


@njit(_WEAVE, nogil=True, cache=True)
def weave(phase, out, at, first, last):
    """Put one phase (M, Q, P) of an up-sampled map into out (M, H', W'): out[m, f + s·q, e + t·p] = phase[m, q, p].

    Args:
        phase, out: arrays of one dtype.
        at: (f, s, e, t), first cell and step along the rows and along the columns.
        first, last: the channels to fill.
    """
    row, row_step, column, column_step = at
    _, rows, columns = phase.shape
    for m in range(first, last):
        for q in range(rows):
            line = out[m, row + q * row_step]
            for p in range(columns):
                line[column + p * column_step] = phase[m, q, p]


@intrinsic
def _turn(_context, w, out, places, w_at, out_at, width, column, there):
    """Up to a vector's length of rows of w, from `column` on -> vectors over the rows, each at its place in out."""
    signature = types.void(w, out, places, *[types.int64] * 5)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        w, out, places = (pointer(context, b, t, a) for t, a in zip(signature.args[:3], arguments[:3], strict=True))
        w_at, out_at, width, column, there = arguments[3:]
        s = Simd(b, w.type.pointee)
        rows = s.load_rows(b.gep(w, [b.add(w_at, column)]), width, there, s.inside(column, width))
        for number, vector in enumerate(s.transpose(rows)):
            place = b.add(column, i64(number))
            with b.if_then(b.icmp_signed("<", place, width)):
                s.store(vector, b.gep(out, [b.add(out_at, b.load(b.gep(places, [place])))]))
        return context.get_dummy_value()

    return signature, generate


_FIVE = types.UniTuple(types.int64, 5)
_PLACES = types.Array(types.int64, 1, "C", readonly=True)
_INTERLEAVE = [types.void(_flat(e, readonly=True), _flat(e), _PLACES, _FIVE, types.int64, types.int64) for e in DTYPES]


@njit(_INTERLEAVE, nogil=True, cache=True)
def interleave(w, out, places, size, first, last):
    """Filters (M, width) -> (blocks, width in another order, block): the filters of a block become neighbours.

    Args:
        w, out: flat arrays of one dtype; filters that a block lacks are filled with zeros.
        places: where each of the `width` weights of a filter goes within a block, counted in elements.
        size: (M/g, blocks per group, width, block, lanes); a block is a multiple of the lanes of a vector.
        first, last: the blocks to fill, of all groups.
    """
    per_group, blocks, width, block, lanes = size
    for place in range(first, last):
        group, number = divmod(place, blocks)
        filters = group * per_group + number * block
        count = min(block, per_group - number * block)
        for column in range(0, width, lanes):
            for start in range(0, block, lanes):
                w_at = (filters + start) * width if start < count else 0
                _turn(w, out, places, w_at, place * width * block + start, width, column, count - start)
