"""Pools on channel-blocked maps: each output vector is the largest or the mean of a window's vectors."""

from typing import Any

import numpy as np

from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.kernels.atomic import array, job, once, stopped
from groupconv_worker.cpu.network.kernels.vectors import load, maximum, splat, store

LARGEST, MEAN = 0, 1


@once
def pool() -> Any:
    """Pools.

    Returns:
        A job with the words (x, y, kind, rows and columns of x, of y, of the kernel, strides, dilations, rows above and
        columns left of x, rows and columns that count as x for a mean beyond its end, whether padding counts, then
        elements from plane to plane and row to row of x, of y). x and y are addresses of first cells. There is a task
        for each row of each block of y.
    """

    @job()
    def pool(at, first, last):
        w = array(at, np.int64)
        x, y, kind, H, W, rows, columns, K, L = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]
        down, right, over, across, top, left, bottom, end = w[9], w[10], w[11], w[12], w[13], w[14], w[15], w[16]
        padded, x_plane, x_row, y_plane, y_row = w[17], w[18], w[19], w[20], w[21]
        lowest, zero = splat(np.float32(-np.inf)), splat(np.float32(0))
        for task in range(first, last):
            if stopped(at):
                return
            block, row = divmod(task, rows)
            h = row * down - top
            k_first, k_last = max(0, (over - 1 - h) // over), min(K, (H - h + over - 1) // over)
            tall = min(K, (H + bottom - h + over - 1) // over)
            for column in range(columns):
                j = column * right - left
                l_first, l_last = max(0, (across - 1 - j) // across), min(L, (W - j + across - 1) // across)
                wide = min(L, (W + end - j + across - 1) // across)
                corner = x + 4 * (block * x_plane + h * x_row + j * LANES)
                found = lowest if kind == LARGEST else zero
                for k in range(k_first, k_last):
                    cell = corner + 4 * k * over * x_row
                    if kind == LARGEST:
                        for i in range(l_first, l_last):
                            found = maximum(load(cell + 4 * LANES * i * across), found)
                    else:
                        for i in range(l_first, l_last):
                            found = found + load(cell + 4 * LANES * i * across)
                if kind == MEAN:
                    count = tall * wide if padded else (k_last - k_first) * (l_last - l_first)
                    found = found / splat(np.float32(max(1, count)))
                store(y + 4 * (block * y_plane + row * y_row + column * LANES), found)

    return pool.address


@once
def clear_margin() -> Any:
    """Writes zeros around maps.

    Returns:
        A job with the words (address of the tensor, rows above, rows, rows below, columns left, columns, columns
        right): a task is a block.
    """

    @job()
    def clear_margin(at, first, last):
        w = array(at, np.int64)
        top, rows, bottom, left, columns, right = w[1], w[2], w[3], w[4], w[5], w[6]
        pitch = left + columns + right
        for block in range(first, last):
            start = w[0] + 4 * LANES * block * (top + rows + bottom) * pitch
            map_end = start + 4 * LANES * (top + rows) * pitch
            for cell in range(top * pitch + left):
                store(start + 4 * LANES * cell, splat(np.float32(0)))
            for row in range(1, rows):
                edge = start + 4 * LANES * ((top + row) * pitch - right)
                for cell in range(right + left):
                    store(edge + 4 * LANES * cell, splat(np.float32(0)))
            for cell in range(bottom * pitch + right):
                store(map_end + 4 * LANES * (cell - right), splat(np.float32(0)))

    return clear_margin.address
