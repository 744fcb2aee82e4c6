"""The transforms of Winograd F(4×4, 3×3) from and to blocked tensors; the product between is kernels/dense.py's.

The lanes hold channels before, between and after, so a transform is plain vector arithmetic, and nothing is transposed.
Between the transforms lie 36 blocked tensors (blocks of channels, tiles, lanes), one for each product.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.blocked.kernels.activation import CLIP, activate, clip
from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.kernels.atomic import array, copy, job, once, stopped
from groupconv_worker.cpu.kernels.simd import Simd, i64
from groupconv_worker.cpu.kernels.winograd_tiles import DTYPE, OUT, OUTPUT, TILE, both_sides, tile_in

BYTES = 4 * LANES
"""Bytes of a vector."""


@intrinsic
def _patch(_context):
    """The address of room for a tile of vectors, on the stack."""

    def generate(_context: Any, b: Any, _signature: Any, _arguments: Any) -> Any:
        room = cgutils.alloca_once(b, ir.ArrayType(ir.VectorType(ir.FloatType(), LANES), TILE * TILE))
        return b.ptrtoint(room, ir.IntType(64))

    return types.int64(), generate


@intrinsic
def _tile_out(_context, places, sizes, low, high):
    """36 vectors of one tile -> its 4×4 outputs, plus bias and residual, between two bounds.

    Args:
        places: addresses of the first of the 36, the bias, the output and the residual.
        sizes: elements from one of the 36 to the next, from row to row and pixel to pixel of the output, and of the
            residual.
        low, high: float32.
    """
    signature = types.void(places, sizes, low, high)

    def generate(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        s = Simd(b, ir.FloatType())
        x, bias, y, residual = (
            b.inttoptr(place, s.element.as_pointer()) for place in cgutils.unpack_tuple(b, arguments[0])
        )
        product, *strides = cgutils.unpack_tuple(b, arguments[1])
        low, high = map(s.splat, arguments[2:])

        def cell(start: Any, distances: list[Any], i: int, j: int) -> Any:
            return b.gep(start, [b.add(b.mul(distances[0], i64(i)), b.mul(distances[1], i64(j)))])

        vectors = [s.load(b.gep(x, [b.mul(product, i64(n))])) for n in range(TILE * TILE)]
        tile = [vectors[i * TILE : (i + 1) * TILE] for i in range(TILE)]
        start = s.load(bias)
        for i, row in enumerate(both_sides(s, OUTPUT, tile)):
            for j, vector in enumerate(row):
                total = b.fadd(b.fadd(vector, start), s.load(cell(residual, strides[2:], i, j)))
                s.store(clip(s, total, low, high), cell(y, strides[:2], i, j))
        return context.get_dummy_value()

    return signature, generate


@once
def transform_input() -> Any:
    """The tiles of a blocked input, 6×6 pixels at every fourth, each as 36 vectors.

    Returns:
        A job with the words (x, out, first row, rows behind, first column, columns behind, x row, x plane, first tile
        row, tile rows, tiles of a row, low, left, product, out plane): x is the address of its cell (0, 0, 0). Its rows
        from the first one to those behind, and its columns, are read; what lies outside is 0. low and left are the
        padding, product and out plane the elements in `out` from one of the 36 to the next, and from block to block. A
        task is a tile row of a block of channels.
    """

    @job()
    def transform_input(at, first, last):
        words = array(at, np.int64)
        x, out = array(words[0], DTYPE), array(words[1], DTYPE)
        first_row, end_row, first_column, end_column = words[2], words[3], words[4], words[5]
        x_row, x_plane, first_tile, tile_rows, tiles = words[6], words[7], words[8], words[9], words[10]
        low, left, product, out_plane = words[11], words[12], words[13], words[14]
        patch = _patch()
        edge = array(patch, DTYPE)
        for task in range(first, last):
            if stopped(at):
                return
            block, i = divmod(task, tile_rows)
            top = (first_tile + i) * OUT - low
            inside = top >= first_row and top + TILE <= end_row
            for j in range(tiles):
                column = j * OUT - left
                out_at = block * out_plane + (i * tiles + j) * LANES
                if inside and column >= first_column and column + TILE <= end_column:
                    tile_in(x, out, block * x_plane + top * x_row + column * LANES, x_row, LANES, out_at, product)
                    continue
                for place in range(TILE * TILE * LANES):
                    edge[place] = 0
                start, end = max(column, first_column), min(column + TILE, end_column)
                for row in range(max(top, first_row), min(top + TILE, end_row)):
                    source = words[0] + 4 * (block * x_plane + row * x_row + start * LANES)
                    target = patch + BYTES * ((row - top) * TILE + start - column)
                    copy(target, source, max(0, end - start) * BYTES)
                tile_in(edge, out, 0, TILE * LANES, LANES, out_at, product)

    return transform_input.address


@once
def transform_output() -> Any:
    """36 vectors for each tile -> the 4×4 outputs of each in a blocked tensor.

    Returns:
        A job with the words (x, bias, y, residual, parameters, code, rows, columns, first tile row, tile rows, tiles of
        a row, product, x plane, y plane, y row, residual plane, residual row, vectors): bias has one for each vector of
        filters and one of zeros. Residual is 0 if there is none. rows and columns are those of y. A task is a tile row
        of a vector of filters.
    """

    @job()
    def transform_output(at, first, last):
        words = array(at, np.int64)
        x, bias, y, residual = words[0], words[1], words[2], words[3]
        parameters, code, rows, columns = array(words[4], np.float32), words[5], words[6], words[7]
        first_tile, tile_rows, tiles, product, x_plane = words[8], words[9], words[10], words[11], words[12]
        y_plane, y_row, r_plane, r_row, vectors = words[13], words[14], words[15], words[16], words[17]
        low, high = np.float32(-np.inf), np.float32(np.inf)
        if code == CLIP:
            low, high = parameters[0], parameters[1]
        patch, zeros = _patch(), bias + BYTES * vectors
        other = patch + BYTES * OUT * OUT
        for task in range(first, last):
            if stopped(at):
                return
            block, i = divmod(task, tile_rows)
            row = (first_tile + i) * OUT
            there = min(OUT, rows - row)
            for j in range(tiles):
                column = j * OUT
                seen = min(OUT, columns - column)
                x_at = x + 4 * (block * x_plane + (i * tiles + j) * LANES)
                y_at = y + 4 * (block * y_plane + row * y_row + column * LANES)
                r_at, down, across = zeros, 0, 0
                if residual != 0:
                    r_at = residual + 4 * (block * r_plane + row * r_row + column * LANES)
                    down, across = r_row, LANES
                start = bias + BYTES * block
                if there == OUT and seen == OUT:
                    _tile_out((x_at, start, y_at, r_at), (product, y_row, LANES, down, across), low, high)
                else:
                    if residual != 0:
                        for a in range(there):
                            copy(other + BYTES * OUT * a, r_at + 4 * a * r_row, BYTES * seen)
                        r_at, down = other, OUT * LANES
                    _tile_out((x_at, start, patch, r_at), (product, OUT * LANES, LANES, down, across), low, high)
                    for a in range(there):
                        copy(y_at + 4 * a * y_row, patch + BYTES * OUT * a, BYTES * seen)
                if code != CLIP:
                    for a in range(there):
                        for c in range(seen):
                            activate(y_at + 4 * (a * y_row + c * LANES), code, parameters[0], parameters[1])

    return transform_output.address
