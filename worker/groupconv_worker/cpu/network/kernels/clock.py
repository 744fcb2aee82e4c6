"""The time between two stages of a program, for runs that say how long each node takes."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.kernels.atomic import array, job, once
from groupconv_worker.cpu.kernels.simd import I32, I64, i64

MONOTONIC = 1
"""CLOCK_MONOTONIC of Linux."""


@intrinsic
def nanoseconds(_context):
    """Nanoseconds of the system's monotonic clock."""

    def generate(_context: Any, b: Any, _signature: Any, _arguments: Any) -> Any:
        pair = ir.ArrayType(I64, 2)
        kind = ir.FunctionType(I32, [I32, pair.as_pointer()])
        function = cgutils.get_or_insert_function(b.module, kind, "clock_gettime")
        found = cgutils.alloca_once(b, pair)
        b.call(function, [ir.Constant(I32, MONOTONIC), found])
        seconds, rest = (b.load(b.gep(found, [i64(0), i64(i)])) for i in (0, 1))
        return b.add(b.mul(seconds, i64(10**9)), rest)

    return types.int64(), generate


@once
def stamp() -> Any:
    """Writes the time.

    Returns:
        A job with the words (address of the int64 that gets it). There is one task.
    """

    @job()
    def stamp(at, first, last):
        w = array(at, np.int64)
        if first < last:
            array(w[0], np.int64)[0] = nanoseconds()

    return stamp.address
