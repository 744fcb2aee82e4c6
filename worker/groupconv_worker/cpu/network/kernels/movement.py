"""Elements that change their places: between layouts, between channels, between axes."""

from typing import Any

import numpy as np

from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.kernels.atomic import array, copy, job, once, stopped
from groupconv_worker.cpu.network.kernels.vectors import load, load_first, multiply_add, splat, store, store_first


@once
def change_layout(to_blocks: bool) -> Any:
    """Copies a map (C, H, W) in C order into a channel-blocked one, or the other way round.

    Args:
        to_blocks: whether the blocked one is written.

    Returns:
        A job with the words (map in C order, blocked map, channels, rows, columns, elements from channel to channel of
        the map in C order, from plane to plane and row to row of the blocked one). A task is a row of a block.
    """

    @job(to_blocks)
    def change_layout(at, first, last):
        w = array(at, np.int64)
        channels, rows, columns = w[2], w[3], w[4]
        plain = array(w[0], np.float32)
        for task in range(first, last):
            if stopped(at):
                return
            block, row = divmod(task, rows)
            blocked = array(w[1] + 4 * (block * w[6] + row * w[7]), np.float32)
            for lane in range(min(LANES, channels - block * LANES)):
                start = (block * LANES + lane) * w[5] + row * columns
                for column in range(columns):
                    if to_blocks:
                        blocked[column * LANES + lane] = plain[start + column]
                    else:
                        plain[start + column] = blocked[column * LANES + lane]

    return change_layout.address


@once
def change_channels(to_blocks: bool) -> Any:
    """Copies an array (rows, columns, channels) in C order into a channel-blocked map, or the other way round.

    Args:
        to_blocks: whether the blocked one is written.

    Returns:
        A job with the words (array, blocked map, channels, columns, elements from plane to plane and row to row of the
        blocked one). A task is a row.
    """

    @job(to_blocks)
    def change_channels(at, first, last):
        w = array(at, np.int64)
        channels, columns = w[2], w[3]
        for row in range(first, last):
            if stopped(at):
                return
            for block in range((channels + LANES - 1) // LANES):
                n = min(LANES, channels - block * LANES)
                plain = w[0] + 4 * (row * columns * channels + block * LANES)
                blocked = w[1] + 4 * (block * w[4] + row * w[5])
                for column in range(columns):
                    pixel, cell = plain + 4 * column * channels, blocked + 4 * column * LANES
                    if to_blocks:
                        store(cell, load_first(pixel, n))
                    else:
                        store_first(pixel, load(cell), n)

    return change_channels.address


@once
def pick_channels() -> Any:
    """Copies channels of one channel-blocked map to others of another one.

    Returns:
        A job with the words (x, y, sources, whole, rows, columns, elements from row to row of x, and from plane to
        plane and row to row of y). `sources` has for each channel of y where it begins in x, in elements, or -1 where y
        stays as it is; `whole` has for each block the same of its first channel where the others follow it, else -1. A
        task is a row of a block of y.
    """

    @job()
    def pick_channels(at, first, last):
        w = array(at, np.int64)
        sources, whole = array(w[2], np.int64), array(w[3], np.int64)
        rows, columns = w[4], w[5]
        for task in range(first, last):
            block, row = divmod(task, rows)
            x_row, y_at = w[0] + 4 * row * w[6], w[1] + 4 * (block * w[7] + row * w[8])
            if whole[block] >= 0:
                copy(y_at, x_row + 4 * whole[block], 4 * LANES * columns)
                continue
            y = array(y_at, np.float32)
            for lane in range(LANES):
                source = sources[block * LANES + lane]
                if source >= 0:
                    x = array(x_row + 4 * source, np.float32)
                    for column in range(columns):
                        y[column * LANES + lane] = x[column * LANES]

    return pick_channels.address


@once
def resize() -> Any:
    """Takes each row and column of a channel-blocked map from two of another one.

    Returns:
        A job with the words (x, y, rows, columns, row table, column table, shares of rows, shares of columns, then
        elements from plane to plane and row to row of x, of y). A table has two numbers of rows (columns) of x for each
        of y, the shares are what each of the two counts (float32). A task is a row of a block of y.
    """

    @job()
    def resize(at, first, last):
        w = array(at, np.int64)
        rows, columns = w[2], w[3]
        table_rows, table_columns = array(w[4], np.int64), array(w[5], np.int64)
        share_rows, share_columns = array(w[6], np.float32), array(w[7], np.float32)
        for task in range(first, last):
            if stopped(at):
                return
            block, row = divmod(task, rows)
            plane = w[0] + 4 * block * w[8]
            upper, lower = plane + 4 * table_rows[2 * row] * w[9], plane + 4 * table_rows[2 * row + 1] * w[9]
            high, low = splat(share_rows[2 * row]), splat(share_rows[2 * row + 1])
            y = w[1] + 4 * (block * w[10] + row * w[11])
            for column in range(columns):
                left, right = 4 * LANES * table_columns[2 * column], 4 * LANES * table_columns[2 * column + 1]
                a, b = splat(share_columns[2 * column]), splat(share_columns[2 * column + 1])
                above = multiply_add(load(upper + right), b, load(upper + left) * a)
                if share_rows[2 * row + 1] != 0:
                    below = multiply_add(load(lower + right), b, load(lower + left) * a)
                    above = multiply_add(below, low, above * high)
                store(y + 4 * LANES * column, above)

    return resize.address


@once
def move() -> Any:
    """Copies elements of 4 bytes between arrays of any strides.

    Returns:
        A job with the words (x, y, four extents, four strides of x, four strides of y), strides in elements. A task is
        a step of the first axis.
    """

    @job()
    def move(at, first, last):
        w = array(at, np.int64)
        for i in range(first, last):
            for j in range(w[3]):
                if stopped(at):
                    return
                for k in range(w[4]):
                    x_at, y_at = i * w[6] + j * w[7] + k * w[8], i * w[10] + j * w[11] + k * w[12]
                    if w[9] == 1 and w[13] == 1:
                        copy(w[1] + 4 * y_at, w[0] + 4 * x_at, 4 * w[5])
                    else:
                        for n in range(w[5]):  # strides may be negative, indices may not
                            x, y = w[0] + 4 * (x_at + n * w[9]), w[1] + 4 * (y_at + n * w[13])
                            array(y, np.int32)[0] = array(x, np.int32)[0]

    return move.address
