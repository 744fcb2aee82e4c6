"""Operators over whole rows or channels: softmax, normalization, means."""

import math
from typing import Any

import numpy as np

from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.kernels.atomic import array, job, once, stopped
from groupconv_worker.cpu.network.kernels.functions import UNARY_CODES, apply
from groupconv_worker.cpu.network.kernels.vectors import (
    largest,
    load,
    load_first,
    maximum,
    multiply_add,
    splat,
    store,
    store_first,
    total,
)

EXP, SQRT = UNARY_CODES["Exp"], UNARY_CODES["Sqrt"]
SOFTMAX, SUM, MEAN, MAX, NORMALIZE, WHERE_MAX, LOG_SOFTMAX = range(7)
"""Numbers of the functions that `rows` computes."""


@once
def rows() -> Any:
    """Softmax, its logarithm, sum, mean or largest of rows, where that is (int64), or normalization, in C order.

    Returns:
        A job with the words (x, y, kind, columns, parameters): a task is a row. The first parameter (float32) is what a
        normalization adds to the variance.
    """

    @job()
    def rows(at, first, last):
        w = array(at, np.int64)
        kind, n = w[2], w[3]
        whole = n // LANES
        rest = n - whole * LANES
        zero = splat(np.float32(0))
        for row in range(first, last):
            if stopped(at):
                return
            x = w[0] + 4 * row * n
            y = w[1] + 4 * row * (1 if kind in (SUM, MEAN, MAX) else n)
            numbers, found = array(x, np.float32), array(y, np.float32)
            if kind == WHERE_MAX:
                best = 0
                for k in range(1, n):
                    if numbers[k] > numbers[best]:
                        best = k
                array(w[1] + 8 * row, np.int64)[0] = best
                continue
            if kind in (SOFTMAX, LOG_SOFTMAX, MAX):
                high = splat(np.float32(-np.inf))
                for k in range(whole):
                    high = maximum(load(x + 4 * LANES * k), high)
                most = largest(high)
                for k in range(whole * LANES, n):
                    most = max(most, numbers[k])
                if kind == MAX:
                    found[0] = most
                    continue
                low, sums = splat(most), zero
                for k in range(whole):
                    part = apply(EXP, load(x + 4 * LANES * k) - low, zero, zero)
                    store(y + 4 * LANES * k, part)
                    sums = sums + part
                all_of_them = total(sums)
                if rest:
                    store_first(
                        y + 4 * LANES * whole,
                        apply(EXP, load_first(x + 4 * LANES * whole, rest) - low, zero, zero),
                        rest,
                    )
                for k in range(whole * LANES, n):
                    all_of_them += found[k]
                if kind == LOG_SOFTMAX:  # not of the quotients, which may be 0
                    behind = np.float32(math.log(all_of_them))
                    shift = splat(behind)
                    for k in range(whole):
                        store(y + 4 * LANES * k, (load(x + 4 * LANES * k) - low) - shift)
                    for k in range(whole * LANES, n):
                        found[k] = (numbers[k] - most) - behind
                    continue
                share = splat(np.float32(1) / all_of_them)
                for k in range(whole):
                    store(y + 4 * LANES * k, load(y + 4 * LANES * k) * share)
                if rest:
                    store_first(y + 4 * LANES * whole, load_first(y + 4 * LANES * whole, rest) * share, rest)
                continue
            sums = zero
            for k in range(whole):
                sums = sums + load(x + 4 * LANES * k)
            if rest:
                sums = sums + load_first(x + 4 * LANES * whole, rest)
            amount = total(sums)
            if kind == SUM:
                found[0] = amount
                continue
            mean = amount / np.float32(n)
            if kind == MEAN:
                found[0] = mean
                continue
            middle, squares = splat(mean), zero
            for k in range(whole):
                apart = load(x + 4 * LANES * k) - middle
                squares = multiply_add(apart, apart, squares)
            variance = total(squares)
            for k in range(whole * LANES, n):
                variance += (numbers[k] - mean) ** 2
            variance = variance / np.float32(n) + array(w[4], np.float32)[0]
            share = splat(np.float32(1) / np.float32(math.sqrt(variance)))
            for k in range(whole):
                store(y + 4 * LANES * k, (load(x + 4 * LANES * k) - middle) * share)
            if rest:
                store_first(y + 4 * LANES * whole, (load_first(x + 4 * LANES * whole, rest) - middle) * share, rest)

    return rows.address


@once
def normalize_neighbors() -> Any:
    """Local response normalization over channels of a channel-blocked map: y = x / (bias + scale · Σ x²)^0.75.

    Returns:
        A job with the words (x, y, room, parameters (scale, bias), channels, channels below, channels above, rows,
        columns, elements of a task's room, elements from plane to plane and row to row of x, of y). A task is a row.
    """

    @job()
    def normalize_neighbors(at, first, last):
        w = array(at, np.int64)
        parameters = array(w[3], np.float32)
        scale, bias = splat(parameters[0]), splat(parameters[1])
        channels, below, above, columns = w[4], w[5], w[6], w[8]
        blocks, zero, one = (channels + LANES - 1) // LANES, splat(np.float32(0)), splat(np.float32(1))
        for row in range(first, last):
            if stopped(at):
                return
            room = w[2] + 4 * row * w[9]
            squares = room + 4 * LANES * ((below + LANES - 1) // LANES)  # zeros before the first channel
            for at_zero in range(room, squares, 4 * LANES):
                store(at_zero, zero)
            for column in range(columns):
                x = w[0] + 4 * (row * w[11] + column * LANES)
                y = w[1] + 4 * (row * w[13] + column * LANES)
                for block in range(blocks):
                    part = load(x + 4 * block * w[10])
                    store(squares + 4 * LANES * block, part * part)
                for behind in range(squares + 4 * channels, squares + 4 * (channels + above), 4 * LANES):
                    store(behind, zero)
                for block in range(blocks):
                    start = squares + 4 * LANES * block
                    amount = zero
                    for step in range(-below, above + 1):
                        amount = amount + load(start + 4 * step)
                    root = apply(SQRT, multiply_add(amount, scale, bias), zero, zero)
                    power = root * apply(SQRT, root, zero, zero)
                    store(y + 4 * block * w[12], load(x + 4 * block * w[10]) * (one / power))

    return normalize_neighbors.address
