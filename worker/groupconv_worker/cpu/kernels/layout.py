"""Copies between layouts that NumPy does not do at the speed of memory."""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from groupconv_worker.cpu.kernels import simd
from groupconv_worker.cpu.kernels.atomic import array, copy, job, once, stopped
from groupconv_worker.cpu.kernels.simd import Simd, i64, pointer


@intrinsic
def _padded(_context, x, out, source, start, column, width, extent):
    """out[start + j] = x[source + j], or 0 where column + j is not in 0 … width - 1, for a vector of j < extent."""
    signature = types.void(x, out, *[types.int64] * 5)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, out = (pointer(context, b, t, a) for t, a in zip(signature.args[:2], arguments[:2], strict=True))
        source, start, column, width, extent = arguments[2:]
        s = Simd(b, x.type.pointee)
        vector = s.load_masked(b.gep(x, [source]), s.inside(column, width))
        s.store_first(vector, b.gep(out, [start]), extent)
        return context.get_dummy_value()

    return signature, generate


BLOCK = 64 * 2**10
"""Bytes of a task of `copied`."""
STEP = 16 * BLOCK
"""Bytes, or elements, after which a copy looks whether its job is over."""


@once
def copied() -> Any:
    """Copies x into out, of as many bytes.

    Returns:
        A job with the words (x, out, bytes); a task is a `BLOCK`.
    """

    @job()
    def copied(at, first, last):
        words = array(at, np.int64)
        end = min(last * BLOCK, words[2])
        for start in range(first * BLOCK, end, STEP):
            if stopped(at):
                return
            copy(words[1] + start, words[0] + start, min(STEP, end - start))

    return copied.address


@once
def spread(dtype: np.dtype) -> Any:
    """Copies x (C, H, W) into out (rows, C, extent) with zeros around it: out[h, c, j] = x[c, h - low, j - left].

    Returns:
        A job with the words (x, out, C, H, W, low, left, extent), low and left may be negative; a task is a row.
    """
    lanes = simd.lanes(dtype.itemsize)

    @job(dtype)
    def spread(at, first, last):
        words = array(at, np.int64)
        x, out = array(words[0], dtype), array(words[1], dtype)
        channels, height, width, low, left = words[2], words[3], words[4], words[5], words[6]
        extent = words[7]
        for h in range(first, last):
            row, seen = h - low, width
            if not 0 <= row < height:
                row = seen = 0
            for c in range(channels):
                start, source = (h * channels + c) * extent, (c * height + row) * width - left
                if stopped(at):
                    return
                for j in range(0, extent, lanes):
                    _padded(x, out, source + j, start + j, j - left, seen, extent - j)

    return spread.address


@once
def weave(dtype: np.dtype) -> Any:
    """Puts one phase (M, Q, P) of an up-sampled map into out (M, H', W'): out[m, f + s·q, e + t·p] = phase[m, q, p].

    Returns:
        A job with the words (phase, out, Q, P, H', W', f, s, e, t); a task is a channel.
    """

    @job(dtype)
    def weave(at, first, last):
        words = array(at, np.int64)
        phase, out = array(words[0], dtype), array(words[1], dtype)
        rows, columns, height, width = words[2], words[3], words[4], words[5]
        row, row_step, column, column_step = words[6], words[7], words[8], words[9]
        for m in range(first, last):
            for q in range(rows):
                if stopped(at):
                    return
                line = (m * height + row + q * row_step) * width + column
                for p in range(columns):
                    out[line + p * column_step] = phase[(m * rows + q) * columns + p]

    return weave.address


@intrinsic
def _turn(_context, w, out, places, w_at, out_at, distance, width, column, there):
    """Up to a vector's length of rows of w, from `column` on -> vectors over the rows, each at its place in out."""
    signature = types.void(w, out, places, *[types.int64] * 6)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        w, out, places = (pointer(context, b, t, a) for t, a in zip(signature.args[:3], arguments[:3], strict=True))
        w_at, out_at, distance, width, column, there = arguments[3:]
        s = Simd(b, w.type.pointee)
        rows = s.load_rows(b.gep(w, [b.add(w_at, column)]), distance, there, s.inside(column, width))
        for number, vector in enumerate(s.transpose(rows)):
            place = b.add(column, i64(number))
            with b.if_then(b.icmp_signed("<", place, width)):
                s.store(vector, b.gep(out, [b.add(out_at, b.load(b.gep(places, [place])))]))
        return context.get_dummy_value()

    return signature, generate


@once
def interleave(dtype: np.dtype) -> Any:
    """Filters (g, pieces, M/g, width), in any strides but the last -> (blocks, weights in another order, block).

    The filters of a block become neighbours; those that it lacks are filled with zeros.

    Returns:
        A job with the words (w, out, places, M/g, blocks per group, width, block, lanes, distances in w of a filter, a
        group and a piece, pieces, distances in out of a piece and a block): `places` says where each of the `width`
        weights of a filter's piece goes within a block, counted in elements; a block is a multiple of the lanes of a
        vector. A task is a block, of all groups.
    """

    @job(dtype)
    def interleave(at, first, last):
        words = array(at, np.int64)
        w, out, places = array(words[0], dtype), array(words[1], dtype), array(words[2], np.int64)
        per_group, blocks, width, block, lanes = words[3], words[4], words[5], words[6], words[7]
        w_filter, w_group, w_piece, pieces = words[8], words[9], words[10], words[11]
        out_piece, out_block = words[12], words[13]
        for place in range(first, last):
            group, number = divmod(place, blocks)
            count = min(block, per_group - number * block)
            for piece in range(pieces):
                for column in range(0, width, lanes):
                    if column % STEP == 0 and stopped(at):
                        return
                    for start in range(0, block, lanes):
                        filters = number * block + (start if start < count else 0)
                        w_at = group * w_group + piece * w_piece + filters * w_filter
                        out_at = place * out_block + piece * out_piece + start
                        _turn(w, out, places, w_at, out_at, w_filter, width, column, count - start)

    return interleave.address
