"""Matrix products: each load of a weight meets the rows of a block, whose sums stay in registers."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.kernels import simd
from groupconv_worker.cpu.kernels.atomic import array, job, once, stopped
from groupconv_worker.cpu.kernels.simd import I64, Simd, i64
from groupconv_worker.cpu.network.kernels.functions import apply
from groupconv_worker.cpu.network.kernels.vectors import floats, load, load_first, splat, store_first

ROWS, VECTORS = (4, 3) if simd.ACCUMULATORS < 28 else (6, 4)
"""Rows and vectors of a block of sums: with one row of weights and an element of x they fill the registers."""
PANEL = VECTORS * LANES
"""Columns of a panel."""


@intrinsic
def _panel(_context, rows, x, x_row, x_depth, w, w_depth, depth, out):
    """Sum a panel: out[r, v] = Σ over depth of x[r, d] · w[d, v], for `rows` rows and `VECTORS` vectors.

    Args:
        rows: 1 to `ROWS`.
        x, w, out: addresses.
        x_row, x_depth, w_depth: elements from row to row of x, and from step to step of the sum.
        depth: terms of the sum.
    """
    signature = types.void(rows, x, x_row, x_depth, w, w_depth, depth, out)

    def generate(context: Any, b: Any, _signature: Any, values: Any) -> Any:
        rows, x, x_row, x_depth, w, w_depth, depth, out = values
        s = Simd(b, ir.FloatType())
        done = b.append_basic_block("done")
        choice = b.switch(rows, done)
        for R in range(1, ROWS + 1):
            case = b.append_basic_block(f"rows{R}")
            choice.add_case(i64(R), case)
            b.position_at_end(case)
            _sum(s, R, (floats(b, x), x_row, x_depth), (floats(b, w), w_depth), depth, floats(b, out))
            b.branch(done)
        b.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


def _sum(s: Simd, R: int, given: tuple[Any, Any, Any], weights: tuple[Any, Any], depth: Any, out: Any) -> None:
    b, (x, x_row, x_depth), (w, w_depth) = s.builder, given, weights
    sums = {(r, v): cgutils.alloca_once_value(b, s.zero) for r in range(R) for v in range(VECTORS)}
    for total in sums.values():
        b.store(s.zero, total)
    with cgutils.for_range(b, depth, intp=I64) as loop:
        at = b.gep(w, [b.mul(loop.index, w_depth)])
        vectors = [s.load(b.gep(at, [i64(v * s.lanes)])) for v in range(VECTORS)]
        for r in range(R):
            value = s.splat(b.load(b.gep(x, [b.add(b.mul(x_row, i64(r)), b.mul(loop.index, x_depth))])))
            for v, vector in enumerate(vectors):
                b.store(s.multiply_add(value, vector, b.load(sums[r, v])), sums[r, v])
    for (r, v), total in sums.items():
        s.store(b.load(total), b.gep(out, [i64((r * VECTORS + v) * s.lanes)]))


@once
def multiply() -> Any:
    """Multiplies matrices: y = unary(x · w + bias), for several pairs of them.

    Returns:
        A job with the words (x, w, bias, y, parameters, unary, rows, depth, columns, pairs, elements from row to row
        and step to step of x, step to step of w, panel to panel of w, row to row of y, pair to pair of x, of w, of y,
        0 or the elements from row to row of bias, bands of rows). bias is 0 if there is none. Tables behind the last
        panel of w are read, and not used. A task is a band of a panel of a pair.
    """

    @job()
    def multiply(at, first, last):
        w = array(at, np.int64)
        rows, depth, columns = w[6], w[7], w[8]
        parameters = array(w[4], np.float32)
        p0, p1 = splat(parameters[0]), splat(parameters[1])
        panels, blocks, bands = (columns + PANEL - 1) // PANEL, (rows + ROWS - 1) // ROWS, w[19]
        room = np.empty(ROWS * PANEL, np.float32)
        sums = room.ctypes.data
        for task in range(first, last):
            pair, rest = divmod(task, panels * bands)
            panel, band = divmod(rest, bands)
            weights = w[1] + 4 * (pair * w[16] + panel * w[13])
            end = min(rows, (blocks * (band + 1) // bands) * ROWS)
            for row in range((blocks * band // bands) * ROWS, end, ROWS):
                if stopped(at):
                    return
                count = min(ROWS, end - row)
                _panel(count, w[0] + 4 * (pair * w[15] + row * w[10]), w[10], w[11], weights, w[12], depth, sums)
                for r in range(count):
                    for v in range(VECTORS):
                        column = panel * PANEL + v * LANES
                        n = columns - column
                        if n > 0:
                            found = load(sums + 4 * (r * VECTORS + v) * LANES)
                            if w[2] != 0:
                                found = found + load_first(w[2] + 4 * ((row + r) * w[18] + column), n)
                            y = w[3] + 4 * (pair * w[17] + (row + r) * w[14] + column)
                            store_first(y, apply(w[5], found, p0, p1), n)
        room[0] = 0  # Numba frees an array behind its last use: the address alone would not keep it

    return multiply.address
