"""Waiting without the GIL and without the kernel: for the tens of microseconds that waking a thread would cost."""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from groupconv_worker.kernels.simd import pointer


@intrinsic
def _load(_context, flag):
    """flag[0], read anew each time: a plain load is moved out of the loop."""
    signature = types.int64(flag)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = pointer(context, builder, signature.args[0], arguments[0])
        return builder.load_atomic(address, "acquire", 8)

    return signature, generate


@intrinsic
def _pause(_context):
    """Nothing that the compiler could leave out, so that a loop of it takes its time."""
    signature = types.void()

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(ir.InlineAsm(kind, "", "", side_effect=True), [])
        return context.get_dummy_value()

    return signature, generate


@njit(types.boolean(types.int64[::1], types.int64, types.int64, types.int64), nogil=True, cache=True)
def await_change(flag, seen, turns, after):
    """Spin until flag[0] differs from `seen`, then for `after` turns more; False if it did not within `turns`.

    A turn takes about a nanosecond. Releases the GIL.

    Example:
        >>> import numpy as np
        >>> await_change(np.ones(1, np.int64), 0, 1000, 0), await_change(np.zeros(1, np.int64), 0, 1000, 0)
        (True, False)
    """
    for _ in range(turns):
        if _load(flag) != seen:
            for _ in range(after):
                _pause()
            return True
    return False
