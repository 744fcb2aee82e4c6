"""The tiles of Winograd F(4×4, 3×3) and F(2×2, 5×5) in registers: their transforms, and the product between.

Both have tiles of 6×6 and interpolate at the points 0, ±1, ±2 and ∞, so they share the transform of the input.

Lanes run over channels throughout, so a transform is plain vector arithmetic: the input is transposed in registers
on its way in and the output on its way out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.kernels import simd
from groupconv_worker.cpu.kernels.simd import I64, Simd, i64, pointer

OUT, KERNEL, TILE = 4, 3, 6
"""Extent of an output tile, of the kernel and of the input tile they need, of F(4×4, 3×3)."""
# Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), section 4.3
INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
FILTER = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class Variant(NamedTuple):
    """What depends on the kernel's extent: that of an output tile, and the matrices of filters and outputs."""

    out: int
    filter: tuple[tuple[float, ...], ...]
    output: tuple[tuple[float, ...], ...]


VARIANTS = {
    KERNEL: Variant(OUT, FILTER, OUTPUT),
    # the rows of FILTER are the powers of the points, so two more of them follow
    5: Variant(
        2,
        (
            (1 / 4, 0, 0, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6, 1 / 3, 2 / 3),
            (1 / 24, -1 / 12, 1 / 6, -1 / 3, 2 / 3),
            (0, 0, 0, 0, 1),
        ),
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 1)),
    ),
}
"""By the kernel's extent."""

DTYPE = np.dtype(np.float32)
LANES = simd.lanes(DTYPE.itemsize)


def _combine(s: Simd, matrix: Sequence[Sequence[float]], vectors: list[Any]) -> list[Any]:
    """matrix @ vectors."""
    sums = []
    for row in matrix:
        total = s.zero
        for factor, vector in zip(row, vectors, strict=True):
            if factor:
                total = s.multiply_add(ir.Constant(s.type, [float(factor)] * s.lanes), vector, total)
        sums.append(total)
    return sums


def both_sides(s: Simd, matrix: Sequence[Sequence[float]], tile: list[list[Any]]) -> list[list[Any]]:
    """matrix @ tile @ matrixᵀ, of vectors."""
    columns = [_combine(s, matrix, list(column)) for column in zip(*tile, strict=True)]
    return [_combine(s, matrix, list(row)) for row in zip(*columns, strict=True)]


@intrinsic
def turn(_context, x, out, x_at, column, out_at, plane, width, there):
    """Transpose: a vector's length of columns from `column` of one row, of `there` channels -> (columns, lanes)."""
    signature = types.void(x, out, *[types.int64] * 6)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, out = (pointer(context, b, t, a) for t, a in zip(signature.args[:2], arguments[:2], strict=True))
        x_at, column, out_at, plane, width, there = arguments[2:]
        s = Simd(b, x.type.pointee)
        rows = s.load_rows(b.gep(x, [b.add(x_at, column)]), plane, there, s.inside(column, width))
        for place, vector in enumerate(s.transpose(rows)):
            s.store(vector, b.gep(out, [b.add(out_at, i64(place * s.lanes))]))
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def filter_tiles(_context, w, out, w_at, column, out_at, plane, there, step, product, K):
    """A vector's length of filters × as many channels, K×K taps each -> their 36 vectors.

    Args:
        w, out: flat arrays; w has a filter's channels × taps one after another.
        w_at, column: the first filter's first weight in w, and of that filter the first weight that is read; weights
            from `plane`, those of a filter, on count as zeros.
        out_at, step, product: the first vector in `out`; distances there of two channels and of two products.
        there: filters that exist; those from there on count as zeros.
    """
    extent = K.literal_value
    signature = types.void(w, out, *[types.int64] * 7, K)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        w, out = (pointer(context, b, t, a) for t, a in zip(signature.args[:2], arguments[:2], strict=True))
        w_at, column, out_at, plane, there, step, product = arguments[2:9]
        s = Simd(b, w.type.pointee)
        turned = cgutils.alloca_once(b, s.type, size=extent**2 * LANES)
        for start in range(0, extent**2 * LANES, LANES):
            at = b.add(column, i64(start))
            rows = s.load_rows(b.gep(w, [b.add(w_at, at)]), plane, there, s.inside(at, plane))
            for number, vector in enumerate(s.transpose(rows), start=start):
                b.store(vector, b.gep(turned, [i64(number)]))
        with cgutils.for_range(b, i64(LANES), intp=I64) as loop:
            first = b.mul(loop.index, i64(extent**2))
            taps = [b.load(b.gep(turned, [b.add(first, i64(n))])) for n in range(extent**2)]
            tile = [taps[i * extent : (i + 1) * extent] for i in range(extent)]
            for number, vector in enumerate(v for row in both_sides(s, VARIANTS[extent].filter, tile) for v in row):
                place = b.add(out_at, b.add(b.mul(loop.index, step), b.mul(product, i64(number))))
                s.store(vector, b.gep(out, [place]))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def tile_in(_context, x, out, x_at, x_row, x_column, out_at, product):
    """One input tile, lanes over channels -> its 36 vectors, `product` apart."""
    signature = types.void(x, out, *[types.int64] * 5)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, out = (pointer(context, b, t, a) for t, a in zip(signature.args[:2], arguments[:2], strict=True))
        x_at, x_row, x_column, out_at, product = arguments[2:]
        s = Simd(b, x.type.pointee)
        starts = [b.gep(x, [b.add(x_at, b.mul(x_row, i64(i)))]) for i in range(TILE)]
        tile = [[s.load(b.gep(start, [b.mul(x_column, i64(j))])) for j in range(TILE)] for start in starts]
        for number, vector in enumerate(v for row in both_sides(s, INPUT, tile) for v in row):
            s.store(vector, b.gep(out, [b.add(out_at, b.mul(product, i64(number)))]))
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def multiply(_context, x, w, out, x_at, w_at, out_at, channels, distance, V, P):
    """P tiles × V vectors of filters of one product; blocks of channels, and of filters, lie `distance` apart."""
    count, tiles = V.literal_value, P.literal_value
    signature = types.void(x, w, out, *[types.int64] * 5, V, P)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, w, out = (
            b.gep(pointer(context, b, t, a), [at])
            for t, a, at in zip(signature.args[:3], arguments[:3], arguments[3:6], strict=True)
        )
        channels, distance = arguments[6:8]
        s = Simd(b, x.type.pointee)
        sums = {(v, t): cgutils.alloca_once_value(b, s.zero) for v in range(count) for t in range(tiles)}
        with cgutils.for_range(b, channels, intp=I64) as blocks:
            block = b.gep(x, [b.mul(blocks.index, distance)])
            with cgutils.for_range(b, i64(s.lanes), intp=I64) as loop:
                channel = b.add(b.mul(blocks.index, i64(s.lanes)), loop.index)
                weights = b.gep(w, [b.mul(channel, i64(count * s.lanes))])
                vectors = [s.load(b.gep(weights, [i64(v * s.lanes)])) for v in range(count)]
                pixels = b.gep(block, [loop.index])
                for t in range(tiles):
                    pixel = s.splat(b.load(b.gep(pixels, [i64(t * s.lanes)])))
                    for v, vector in enumerate(vectors):
                        b.store(s.multiply_add(vector, pixel, b.load(sums[v, t])), sums[v, t])
        for v in range(count):
            start = b.gep(out, [b.mul(distance, i64(v))])
            for t in range(tiles):
                s.store(b.load(sums[v, t]), b.gep(start, [i64(t * s.lanes)]))
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def tile_out(_context, x, bias, out, x_at, product, bias_at, out_at, out_row, out_column, relu, K):
    """36 vectors of one tile, `product` apart -> its outputs of a K×K kernel, lanes over filters.

    Returns:
        Not 0 if an output is not finite, or so large that its square is not.
    """
    extent = K.literal_value
    signature = types.int64(x, bias, out, *[types.int64] * 7, K)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, bias, out = (pointer(context, b, t, a) for t, a in zip(signature.args[:3], arguments[:3], strict=True))
        x_at, product, bias_at, out_at, out_row, out_column, relu = arguments[3:10]
        s = Simd(b, x.type.pointee)
        relu = b.icmp_signed("!=", relu, i64(0))
        start = s.load(b.gep(bias, [bias_at]))
        places = [b.add(x_at, b.mul(product, i64(n))) for n in range(TILE * TILE)]
        tile = [[s.load(b.gep(x, [places[i * TILE + j]])) for j in range(TILE)] for i in range(TILE)]
        squares = s.zero
        for i, row in enumerate(both_sides(s, VARIANTS[extent].output, tile)):
            for j, vector in enumerate(row):
                place = b.add(out_at, b.add(b.mul(out_row, i64(i)), b.mul(out_column, i64(j))))
                s.store(s.relu(b.fadd(vector, start), relu), b.gep(out, [place]))
                squares = s.multiply_add(vector, vector, squares)
        nothing = b.fmul(squares, s.zero)  # or NaN
        odd = b.bitcast(b.fcmp_unordered("uno", nothing, nothing), ir.IntType(s.lanes))
        return b.zext(odd, I64)

    return signature, generate


@intrinsic
def turn_back(_context, x, y, x_at, y_at, column, plane, width, there):
    """Transpose: (columns, lanes) from `column` of one row on -> that row in the planes of `there` filters."""
    signature = types.void(x, y, *[types.int64] * 6)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, y = (pointer(context, b, t, a) for t, a in zip(signature.args[:2], arguments[:2], strict=True))
        x_at, y_at, column, plane, width, there = arguments[2:]
        s = Simd(b, x.type.pointee)
        columns = [s.load(b.gep(x, [b.add(x_at, i64(place * s.lanes))])) for place in range(s.lanes)]
        for lane, row in enumerate(s.transpose(columns)):
            with b.if_then(b.icmp_signed("<", i64(lane), there)):
                place = b.add(y_at, b.add(column, b.mul(plane, i64(lane))))
                s.store_first(row, b.gep(y, [place]), b.sub(width, column))
        return context.get_dummy_value()

    return signature, generate
