"""The passes of Winograd F(4×4, 3×3): transform the filters once, then the input's tiles, multiply, transform back.

Between the passes lie, for each of the 36 products,

    (g, blocks of channels, tiles, lanes)        blocks of channels = ceil(C/g / lanes), filters likewise

and the products lie at a distance (`apart`) that is not a multiple of a page: a transform touches all 36 at once, and
lines a multiple of 4 KiB apart share one set of the first cache.
"""

import functools
from typing import Any

import numpy as np

from groupconv_worker.kernels.atomic import array, job
from groupconv_worker.kernels.winograd_tiles import (
    DTYPE,
    KERNEL,
    LANES,
    OUT,
    TILE,
    multiply,
    tile_filter,
    tile_in,
    tile_out,
    turn,
)


def apart(size: int) -> int:
    """The distance of two products of `size` elements, an odd number of vectors.

    Example:
        >>> apart(64 * LANES) // LANES
        65
    """
    return -(-size // LANES) // 2 * 2 * LANES + LANES


@functools.cache
def transform_filters() -> Any:
    """w (g, filter blocks, 9, C/g, size) -> out (36, g, filter blocks, channels, size).

    Returns:
        A job with the words (w, out, C/g, channels of out, filters of a block, distance of two products in out);
        channels that only `out` has are filled with zeros. A task is a block of filters, of all groups.
    """

    @job
    def transform_filters(at, first, last):
        words = array(at, np.int64)
        w, out = array(words[0], DTYPE), array(words[1], DTYPE)
        channels, padded, filters, product = words[2], words[3], words[4], words[5]
        for block in range(first, last):
            for c in range(channels):
                for start in range(0, filters, LANES):
                    w_at = (block * KERNEL * KERNEL * channels + c) * filters + start
                    tile_filter(w, out, w_at, channels * filters, (block * padded + c) * filters + start, product)
            for number in range(TILE * TILE):
                for place in range((block * padded + channels) * filters, (block + 1) * padded * filters):
                    out[number * product + place] = 0

    return transform_filters.address


@functools.cache
def transform_input() -> Any:
    """x (C, H, W) -> out (36, g, channel blocks, tiles, lanes).

    Returns:
        A job with the words (x, wide, out, C/g, channel blocks per group, H, W, low, left, first tile row, tile rows,
        tiles per row, columns of `wide`, distance of two products in `out`); `wide` is room for (blocks, rows,
        columns, lanes). A task is a block of channels, of all groups.
    """

    @job
    def transform_input(at, first, last):
        words = array(at, np.int64)
        x, wide, out = array(words[0], DTYPE), array(words[1], DTYPE), array(words[2], DTYPE)
        channels, blocks, height, width, low, left = words[3], words[4], words[5], words[6], words[7], words[8]
        tile_row, tile_rows, tiles, columns, product = words[9], words[10], words[11], words[12], words[13]
        rows = OUT * tile_rows + 2
        for block in range(first, last):
            group, part = divmod(block, blocks)
            there = min(LANES, channels - part * LANES)
            start = block * rows * columns * LANES
            for i in range(rows):
                row = tile_row * OUT + i - low
                exist = there if 0 <= row < height else 0
                x_at = ((group * channels + part * LANES) * height + row) * width
                for column in range(0, columns, LANES):
                    out_at = start + (i * columns + column) * LANES
                    turn(x, wide, x_at, column - left, out_at, height * width, width, exist)
            for i in range(tile_rows):
                for j in range(tiles):
                    x_at = start + (i * OUT * columns + j * OUT) * LANES
                    out_at = ((block * tile_rows + i) * tiles + j) * LANES
                    tile_in(wide, out, x_at, columns * LANES, out_at, product)

    return transform_input.address


@functools.cache
def product(V: int, P: int) -> Any:
    """The compiled pass between the transforms, for blocks of V vectors of filters and P tiles.

    Returns:
        A job with the words (x, w, out, groups, channel blocks, filter blocks per group, tiles, distances of two
        products in x, w and out): x (36, g, channel blocks, tiles, lanes) times w (36, g, filter blocks, channels,
        V·lanes) into out (36, g, filter blocks · V, tiles, lanes); the channels of w are padded to whole blocks,
        tiles is at least P. There are 36 · g · filter blocks tasks.
    """

    @job
    def product(at, first, last):
        words = array(at, np.int64)
        x, w, out = array(words[0], DTYPE), array(words[1], DTYPE), array(words[2], DTYPE)
        groups, channel_blocks, blocks, tiles = words[3], words[4], words[5], words[6]
        x_product, w_product, out_product = words[7], words[8], words[9]
        for task in range(first, last):
            number, block = divmod(task, groups * blocks)
            w_at = number * w_product + block * channel_blocks * LANES * V * LANES
            for start in range(0, tiles, P):
                tile = min(start, tiles - P)
                x_at = number * x_product + (block // blocks * channel_blocks * tiles + tile) * LANES
                out_at = number * out_product + (block * V * tiles + tile) * LANES
                multiply(x, w, out, x_at, w_at, out_at, channel_blocks, tiles * LANES, V, P)

    return product.address


@functools.cache
def transform_output() -> Any:
    """x (36, g, filter blocks, tiles, lanes) + bias (g, filter blocks, lanes) -> the tiles' outputs in y (M, H', W').

    Returns:
        A job with the words (x, bias, y, M/g, filter blocks per group, H', W', first tile row, tile rows, tiles per
        row, distance of two products in x, relu). A task is a block of filters, of all groups.
    """

    @job
    def transform_output(at, first, last):
        words = array(at, np.int64)
        x, bias, y = array(words[0], DTYPE), array(words[1], DTYPE), array(words[2], DTYPE)
        per_group, blocks, height, width = words[3], words[4], words[5], words[6]
        tile_row, tile_rows, tiles, product, relu = words[7], words[8], words[9], words[10], words[11]
        plane = height * width
        for block in range(first, last):
            group, part = divmod(block, blocks)
            filters = min(LANES, per_group - part * LANES)
            for i in range(tile_rows):
                row = (tile_row + i) * OUT
                rows = min(OUT, height - row)
                for j in range(tiles):
                    x_at = ((block * tile_rows + i) * tiles + j) * LANES
                    y_at = ((group * per_group + part * LANES) * height + row) * width + j * OUT
                    columns = min(OUT, width - j * OUT)
                    tile_out(x, bias, y, x_at, product, block * LANES, y_at, plane, width, rows, columns, filters, relu)

    return transform_output.address
