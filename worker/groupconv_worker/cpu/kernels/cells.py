"""Transposed convolution of few input cells: the products of every cell and every weight, and their sums.

The weights (C, M·ΠK) are read once, as they lie, with the lanes along a row of them: nothing is packed. A product is
computed even if its output cell is cut off by the padding.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.kernels import simd
from groupconv_worker.cpu.kernels.atomic import array, job, once, stopped
from groupconv_worker.cpu.kernels.forms import form
from groupconv_worker.cpu.kernels.simd import I64, Simd, i64, pointer

AHEAD = 12
"""Channels that weights are fetched ahead of their use: the rows that they lie in are pages apart."""


@intrinsic(prefer_literal=True)
def _products(_context, x, w, z, channels, columns, row, V, P):
    """z[p, v] = Σ_c x[c, p] · w[c, v] for P cells and V vectors of weights.

    Args:
        x, w, z: flat arrays that begin with the block.
        channels: C.
        columns, row: distances in w of a channel, in z of a cell.
        V, P: literals.
    """
    vectors, pixels = V.literal_value, P.literal_value
    signature = types.void(x, w, z, channels, columns, row, V, P)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, w, z = (pointer(context, b, t, a) for t, a in zip(signature.args[:3], arguments[:3], strict=True))
        channels, columns, row = arguments[3:6]
        s = Simd(b, x.type.pointee)
        zero = ir.Constant(x.type.pointee, 0)
        each = [(v, p) for v in range(vectors) for p in range(pixels)]
        sums = {at: cgutils.alloca_once_value(b, s.splat(zero)) for at in each}
        made = {(v, p): b.gep(z, [b.add(b.mul(row, i64(p)), i64(v * s.lanes))]) for v, p in each}
        with cgutils.for_range(b, channels, intp=I64) as loop:
            weights = b.gep(w, [b.mul(loop.index, columns)])
            seen = b.gep(x, [b.mul(loop.index, i64(pixels))])
            later = b.gep(w, [b.mul(b.add(loop.index, i64(AHEAD)), columns)])
            for v in range(vectors):
                s.prefetch(b.gep(later, [i64(v * s.lanes)]))
            loaded = [s.load(b.gep(weights, [i64(v * s.lanes)])) for v in range(vectors)]
            for p in range(pixels):
                pixel = s.splat(b.load(b.gep(seen, [i64(p)])))
                for v, vector in enumerate(loaded):
                    b.store(s.multiply_add(vector, pixel, b.load(sums[v, p])), sums[v, p])
        for at in each:
            s.store(b.load(sums[at]), made[at])
        return context.get_dummy_value()

    return signature, generate


@form
def products(dtype: np.dtype, V: int, P: int) -> Any:
    """The compiled loop over blocks of V vectors of weights, for P cells; the last block overlaps its neighbor.

    Returns:
        A job with the words (x, w, z, channels, columns, row): z[p·row + m] = Σ_c x[c, p] · w[c, m], x (channels, P)
        and w (channels, columns) flat, with at least a block of columns. A task is a block.
    """
    block, size = V * simd.lanes(dtype.itemsize), dtype.itemsize

    @job(dtype, V, P)
    def products(at, first, last):
        words = array(at, np.int64)
        x, w, z = words[0], words[1], words[2]
        channels, columns, row = words[3], words[4], words[5]
        for task in range(first, last):
            if stopped(at):
                return
            column = min(task * block, columns - block)
            weights, made = array(w + column * size, dtype), array(z + column * size, dtype)
            _products(array(x, dtype), weights, made, channels, columns, row, V, P)

    return products.address


@once
def sums(dtype: np.dtype) -> Any:
    """y[m, o] = bias[m] + Σ z[places[i] + m·taps] for starts[o] <= i < starts[o + 1].

    Returns:
        A job with the words (z, bias, y, places, starts, taps, outputs, relu); a task is a filter.
    """
    zero = dtype.type(0)

    @job(dtype)
    def sums(at, first, last):
        words = array(at, np.int64)
        z, bias, y = array(words[0], dtype), array(words[1], dtype), array(words[2], dtype)
        places, starts = array(words[3], np.int64), array(words[4], np.int64)
        taps, outputs, relu = words[5], words[6], words[7]
        for m in range(first, last):
            if stopped(at):
                return
            for o in range(outputs):
                total = bias[m]
                for i in range(starts[o], starts[o + 1]):
                    total += z[places[i] + m * taps]
                y[m * outputs + o] = zero if relu and total < zero else total

    return sums.address
