"""The passes of Winograd: transform the filters once, then the input's tiles, multiply, transform back.

`K` is the kernel's extent, 3 or 5, and decides the algorithm: F(4×4, 3×3) or F(2×2, 5×5). Between the passes lie, for
each of the 36 products,

    (g, blocks of channels, tiles, lanes)        blocks of channels = ceil(C/g / lanes), filters likewise

and the products lie at a distance (`apart`) that is not a multiple of a page: a transform touches all 36 at once, and
lines a multiple of 4 KiB apart share one set of the first cache.
"""

from typing import Any

import numpy as np
from numba import njit

from groupconv_worker.cpu.kernels.atomic import array, exchange, job, once, stopped, store
from groupconv_worker.cpu.kernels.forms import form
from groupconv_worker.cpu.kernels.winograd_tiles import (
    DTYPE,
    LANES,
    TILE,
    VARIANTS,
    filter_tiles,
    multiply,
    tile_in,
    tile_out,
    turn,
    turn_back,
)


def apart(size: int) -> int:
    """The distance of two products of `size` elements, an odd number of vectors.

    Example:
        >>> apart(64 * LANES) // LANES
        65
    """
    return -(-size // LANES) // 2 * 2 * LANES + LANES


@njit(inline="always")
def tile_start(number, dilation, out):
    """First cell of a tile of outputs. A dilation of d makes d images of every d-th cell, each with its own tiles."""
    part, phase = divmod(number, dilation)
    return part * out * dilation + phase


@njit(inline="always")
def filter_block(w, out, w_at, out_at, filters, channels, padded, size, product, K):
    """Transform a block of `size` filters, of which so many exist, with `padded` channels, of which so many exist."""
    plane = channels * K * K
    for start in range(0, size, LANES):
        for c in range(0, padded, LANES):
            column, place = c * K * K, out_at + c * size + start
            filter_tiles(w, out, w_at + start * plane, column, place, plane, filters - start, size, product, K)


@once
def transform_filters(K: int) -> Any:
    """w (M, C/g, K, K) -> out (36, g, filter blocks, channels, size).

    Returns:
        A job with the words (w, out, C/g, M/g, filter blocks per group, channels of out, filters of a block, distance
        of two products in out); channels and filters that only `out` has are filled with zeros. A task is a block of
        filters, of all groups.
    """

    @job(K)
    def transform_filters(at, first, last):
        words = array(at, np.int64)
        w, out = array(words[0], DTYPE), array(words[1], DTYPE)
        channels, per_group, blocks, padded, size, product = words[2], words[3], words[4], words[5], words[6], words[7]
        for block in range(first, last):
            if stopped(at):
                return
            group, number = divmod(block, blocks)
            w_at = (group * per_group + number * size) * channels * K * K
            there = per_group - number * size
            filter_block(w, out, w_at, block * padded * size, there, channels, padded, size, product, K)

    return transform_filters.address


@once
def transform_input(K: int) -> Any:
    """x (C, H, W) -> out (36, g, channel blocks, tiles, lanes).

    Returns:
        A job with the words (x, wide, out, C/g, channel blocks per group, H, W, low, left, first row, dilation of rows
        and of columns, tile rows, tiles per row, columns of `wide`, distance of two products in `out`); `wide` is room
        for (blocks, rows, columns, lanes). A task is a block of channels, of all groups.
    """
    extent = VARIANTS[K].out

    @job(K)
    def transform_input(at, first, last):
        words = array(at, np.int64)
        x, wide, out = array(words[0], DTYPE), array(words[1], DTYPE), array(words[2], DTYPE)
        channels, blocks, height, width, low, left = words[3], words[4], words[5], words[6], words[7], words[8]
        first_row, down, across, tile_rows, tiles = words[9], words[10], words[11], words[12], words[13]
        columns, product = words[14], words[15]
        rows = extent * tile_rows + (K - 1) * down
        for block in range(first, last):
            if stopped(at):
                return
            group, part = divmod(block, blocks)
            there = min(LANES, channels - part * LANES)
            start = block * rows * columns * LANES
            for i in range(rows):
                row = first_row + i - low
                exist = there if 0 <= row < height else 0
                x_at = ((group * channels + part * LANES) * height + row) * width
                for column in range(0, columns, LANES):
                    out_at = start + (i * columns + column) * LANES
                    turn(x, wide, x_at, column - left, out_at, height * width, width, exist)
            for i in range(tile_rows):
                for j in range(tiles):
                    row, column = tile_start(i, down, extent), tile_start(j, across, extent)
                    x_at = start + (row * columns + column) * LANES
                    out_at = ((block * tile_rows + i) * tiles + j) * LANES
                    tile_in(wide, out, x_at, down * columns * LANES, across * LANES, out_at, product)

    return transform_input.address


@form
def product(V: int, P: int) -> Any:
    """The compiled pass between the transforms, for blocks of V vectors of filters and P tiles.

    Returns:
        A job with the words (x, w, out, groups, channel blocks, filter blocks per group, tiles, distances of two
        products in x, w and out): x (36, g, channel blocks, tiles, lanes) times w (36, g, filter blocks, channels,
        V·lanes) into out (36, g, filter blocks · V, tiles, lanes); the channels of w are padded to whole blocks,
        tiles is at least P. There are 36 · g · filter blocks tasks.
    """

    @job(V, P)
    def product(at, first, last):
        words = array(at, np.int64)
        x, w, out = array(words[0], DTYPE), array(words[1], DTYPE), array(words[2], DTYPE)
        groups, channel_blocks, blocks, tiles = words[3], words[4], words[5], words[6]
        x_product, w_product, out_product = words[7], words[8], words[9]
        for task in range(first, last):
            if stopped(at):
                return
            number, block = divmod(task, groups * blocks)
            w_at = number * w_product + block * channel_blocks * LANES * V * LANES
            for start in range(0, tiles, P):
                tile = min(start, tiles - P)
                x_at = number * x_product + (block // blocks * channel_blocks * tiles + tile) * LANES
                out_at = number * out_product + (block * V * tiles + tile) * LANES
                multiply(x, w, out, x_at, w_at, out_at, channel_blocks, tiles * LANES, V, P)

    return product.address


@form
def product_of_filters(V: int, P: int, K: int) -> Any:
    """`transform_filters` and `product` in one: for filters that are used once, so that they stay in the second cache.

    Returns:
        A job with the words (x, w, room, out, C/g, M/g, channel blocks, filter blocks per group, tiles, distances of
        two products in x, room and out, rooms, a 0 for each of them): w is (M, C/g, K, K), x and out are those of
        `product`, `room` has memory for 36 products of a block of filters for each thread. There are g · filter blocks
        tasks.
    """

    @job(V, P, K)
    def product_of_filters(at, first, last):
        words = array(at, np.int64)
        x, w, room, out = array(words[0], DTYPE), array(words[1], DTYPE), array(words[2], DTYPE), array(words[3], DTYPE)
        channels, per_group, channel_blocks, blocks, tiles = words[4], words[5], words[6], words[7], words[8]
        x_product, w_product, out_product, rooms = words[9], words[10], words[11], words[12]
        size, mine = V * LANES, 0
        while not exchange(at + 8 * (13 + mine), 0, 1):
            mine = (mine + 1) % rooms
        for block in range(first, last):
            if stopped(at):
                break
            group, number = divmod(block, blocks)
            w_at = (group * per_group + number * size) * channels * K * K
            there, start_at = per_group - number * size, mine * TILE * TILE * w_product
            padded = channel_blocks * LANES
            filter_block(w, room, w_at, start_at, there, channels, padded, size, w_product, K)
            for number in range(TILE * TILE):
                for start in range(0, tiles, P):
                    tile = min(start, tiles - P)
                    x_at = number * x_product + (group * channel_blocks * tiles + tile) * LANES
                    out_at = number * out_product + (block * V * tiles + tile) * LANES
                    place = start_at + number * w_product
                    multiply(x, room, out, x_at, place, out_at, channel_blocks, tiles * LANES, V, P)
        store(at + 8 * (13 + mine), 0)

    return product_of_filters.address


@once
def transform_output(K: int) -> Any:
    """x (36, g, filter blocks, tiles, lanes) + bias (g, filter blocks, lanes) -> the tiles' outputs in y (M, H', W').

    Returns:
        A job with the words (x, bias, wide, y, M/g, filter blocks per group, H', W', first row, dilation of rows and of
        columns, tile rows, tiles per row, columns of `wide`, distance of two products in x, relu, odd); `wide` is
        room for (blocks, rows, columns, lanes), `odd` a word that becomes 1 if an output may not be finite. A task is a
        block of filters, of all groups.
    """
    extent = VARIANTS[K].out

    @job(K)
    def transform_output(at, first, last):
        words = array(at, np.int64)
        x, bias = array(words[0], DTYPE), array(words[1], DTYPE)
        wide, y = array(words[2], DTYPE), array(words[3], DTYPE)
        per_group, blocks, height, width = words[4], words[5], words[6], words[7]
        first_row, down, across, tile_rows, tiles = words[8], words[9], words[10], words[11], words[12]
        columns, product, relu = words[13], words[14], words[15]
        rows, odd = tile_rows * extent, 0
        for block in range(first, last):
            if stopped(at):
                return
            group, part = divmod(block, blocks)
            filters = min(LANES, per_group - part * LANES)
            start, row_size = block * rows * columns * LANES, columns * LANES
            for i in range(tile_rows):
                for j in range(tiles):
                    x_at = ((block * tile_rows + i) * tiles + j) * LANES
                    row, column = tile_start(i, down, extent), tile_start(j, across, extent)
                    out_at = start + row * row_size + column * LANES
                    row_at, column_at = down * row_size, across * LANES
                    odd |= tile_out(x, bias, wide, x_at, product, block * LANES, out_at, row_at, column_at, relu, K)
            for i in range(min(rows, height - first_row)):
                y_at = ((group * per_group + part * LANES) * height + first_row + i) * width
                for column in range(0, width, LANES):
                    at_wide = start + i * row_size + column * LANES
                    turn_back(wide, y, at_wide, y_at, column, height * width, width, filters)
        if odd:
            store(words[16], 1)

    return transform_output.address
