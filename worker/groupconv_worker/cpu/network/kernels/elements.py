"""Elements of other dtypes, and elements that tables choose."""

from typing import Any

import numpy as np

from groupconv_worker.cpu.kernels.atomic import array, copy, job, once

BLOCK = 4096
"""Elements of a task."""
STORED = {"bool": np.uint8, "float32": np.float32, "float64": np.float64, "int32": np.int32, "int64": np.int64,
          "int8": np.int8, "uint8": np.uint8}  # fmt: skip
"""Dtypes that are converted, and as what their elements lie in memory."""


@once
def convert(source: str, target: str) -> Any:
    """Converts elements as ONNX's Cast does: floats lose their fraction, and what is not 0 is true.

    Args:
        source, target: of `STORED`.

    Returns:
        A job with the words (x, y, elements). A task is `BLOCK` elements.
    """
    read, written, truth = STORED[source], STORED[target], target == "bool"

    @job(source, target)
    def convert(at, first, last):
        w = array(at, np.int64)
        x, y = array(w[0], read), array(w[1], written)
        for i in range(first * BLOCK, min(w[2], last * BLOCK)):
            if truth:
                y[i] = x[i] != 0
            else:
                y[i] = x[i]

    return convert.address


@once
def take() -> Any:
    """Copies runs of bytes that a table chooses: y[o, i] = x[o, table[i]].

    Returns:
        A job with the words (x, y, table, extent of x, extent of y, bytes of a run). A task is a run of y.
    """

    @job()
    def take(at, first, last):
        w = array(at, np.int64)
        table, rows, taken, size = array(w[2], np.int64), w[3], w[4], w[5]
        for task in range(first, last):
            outer, i = divmod(task, taken)
            copy(w[1] + size * task, w[0] + size * (outer * rows + table[i]), size)

    return take.address
