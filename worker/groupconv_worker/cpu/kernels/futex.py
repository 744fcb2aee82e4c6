"""Sleeping until a word of memory changes, in compiled code: Linux' futex(2), on the lower half of the word."""

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.kernels.simd import I64, i64

_NUMBER = {"x86_64": 202, "ppc64le": 221}.get(platform.machine(), 98)
"""Linux' number of the call, by architecture (syscalls(2)); 98 where it is a newer one."""
_WAIT, _WAKE, _EVERYONE = 128, 129, 2**31 - 1  # both of this process alone


def _call(operation: int, value: Callable[[Any], Any]) -> Callable[..., Any]:
    """Code that makes the call."""

    def generate(_context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(I64, [I64], var_arg=True)
        function = cgutils.get_or_insert_function(b.module, kind, "syscall")
        return b.call(function, [i64(_NUMBER), arguments[0], i64(operation), value(arguments), i64(0)])

    return generate


@intrinsic
def sleep(_context, address, value):
    """Sleep until woken, or for no reason, if the word still has this value (little-endian, below 2³¹)."""
    return types.int64(types.int64, types.int64), _call(_WAIT, lambda arguments: arguments[1])


@intrinsic
def wake(_context, address):
    """Wake whoever sleeps at the word."""
    return types.int64(types.int64), _call(_WAKE, lambda _: i64(_EVERYONE))
