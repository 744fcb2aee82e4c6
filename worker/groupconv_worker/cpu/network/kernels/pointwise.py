"""Operators of each element: up to three inputs, broadcast, then a function of one."""

from typing import Any

import numpy as np

from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.kernels.atomic import array, job, once, stopped
from groupconv_worker.cpu.network.kernels.functions import apply, combine
from groupconv_worker.cpu.network.kernels.vectors import load, load_first, splat, store, store_first

SPLAT, RUN, SAME = 0, 1, 2
"""How an input goes along a run: one number for all, element by element, or one vector for each vector."""


@once
def pointwise() -> Any:
    """Applies y = unary(binary(a, b, c)) to runs of elements.

    Returns:
        A job with the words (a, b, c, y, parameters, binary, unary, mode of a, of b, of c, then extents of two inner
        axes, elements of a run, of the last run, then elements from step to step of the three axes for a, b, c, y).
        A task is a step of the outermost axis.
    """

    @job()
    def pointwise(at, first, last):
        w = array(at, np.int64)
        parameters = array(w[4], np.float32)
        p0, p1 = splat(parameters[0]), splat(parameters[1])
        binary, unary = w[5], w[6]
        step_a, step_b, step_c = 4 * LANES * (w[7] == RUN), 4 * LANES * (w[8] == RUN), 4 * LANES * (w[9] == RUN)
        for task in range(first, last):
            if stopped(at):
                return
            for i in range(w[10]):
                for j in range(w[11]):
                    n = w[12] if j < w[11] - 1 else w[13]
                    a = w[0] + 4 * (task * w[14] + i * w[15] + j * w[16])
                    b = w[1] + 4 * (task * w[17] + i * w[18] + j * w[19])
                    c = w[2] + 4 * (task * w[20] + i * w[21] + j * w[22])
                    y = w[3] + 4 * (task * w[23] + i * w[24] + j * w[25])
                    va = splat(array(a, np.float32)[0]) if w[7] == SPLAT else load_first(a, n)
                    vb = splat(array(b, np.float32)[0]) if w[8] == SPLAT else load_first(b, n)
                    vc = splat(array(c, np.float32)[0]) if w[9] == SPLAT else load_first(c, n)
                    whole = n // LANES
                    for k in range(whole):
                        if step_a:
                            va = load(a + k * step_a)
                        if step_b:
                            vb = load(b + k * step_b)
                        if step_c:
                            vc = load(c + k * step_c)
                        store(y + 4 * LANES * k, apply(unary, combine(binary, va, vb, vc), p0, p1))
                    rest = n - whole * LANES
                    if rest:
                        if step_a:
                            va = load_first(a + whole * step_a, rest)
                        if step_b:
                            vb = load_first(b + whole * step_b, rest)
                        if step_c:
                            vc = load_first(c + whole * step_c, rest)
                        done = apply(unary, combine(binary, va, vb, vc), p0, p1)
                        store_first(y + 4 * LANES * whole, done, rest)

    return pointwise.address
