"""Memory by its address: what kernels are handed as words, and the atomic operations that threads meet by."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.kernels.cache import callback
from groupconv_worker.cpu.kernels.forms import FORMS
from groupconv_worker.cpu.kernels.simd import I8, I32, I64, i64

LENGTH = 2**40
"""Length of an array that is only an address: nothing asks for it."""

LOOK = 20_000
"""Steps of a block (a tap of a channel) after which a kernel looks whether its job is over: some 100 µs."""
_JOB = types.void(types.int64, types.int64, types.int64)


def job(*key: object) -> Callable[[Any], Any]:
    """Compiles kernel(at, first, last): the address of its words, its tasks. A stage of a program (program.py).

    Args:
        key: what tells this specialisation from the others, for whoever looks at its name in a profile or on disk.
    """

    def compiled(function: Any) -> Any:
        function.__qualname__ = "_".join([function.__qualname__, *map(str, key)])
        return callback(_JOB, function)

    return compiled


def once(make: Callable[..., Any]) -> Callable[..., Any]:
    """As `forms.form`, for kernels of few keys, which do not count towards the limit."""
    return FORMS.kernel(make, counted=False)


@intrinsic
def array(_context, address, dtype):
    """The flat array of `dtype` at an address."""
    element = dtype.dtype
    kind = types.Array(element, 1, "C")

    def generate(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        made = context.make_array(kind)(context, b)
        size = context.get_abi_sizeof(context.get_data_type(element))
        data = b.inttoptr(arguments[0], made.data.type)
        shape, strides = (cgutils.pack_array(b, [i64(n)]) for n in (LENGTH, size))
        context.populate_array(made, data=data, shape=shape, strides=strides, itemsize=i64(size), meminfo=None)
        return made._getvalue()  # noqa: SLF001 - as numba.carray does

    return kind(address, dtype), generate


def _operation(emit: Callable[..., Any], operands: int, result: Any = types.int64) -> Any:
    """An intrinsic on the 64-bit word at an address."""

    def typed(values: list[Any]) -> Any:
        def generate(_context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
            return emit(b, b.inttoptr(arguments[0], I64.as_pointer()), *arguments[1:])

        return result(*[types.int64] * len(values)), generate

    if operands == 0:

        @intrinsic
        def operation(_context, address):
            return typed([address])
    elif operands == 1:

        @intrinsic
        def operation(_context, address, value):
            return typed([address, value])
    else:

        @intrinsic
        def operation(_context, address, expected, value):
            return typed([address, expected, value])

    return operation


def _store(b: Any, place: Any, value: Any) -> Any:
    b.store_atomic(value, place, "release", 8)
    return i64(0)


load = _operation(lambda b, place: b.load_atomic(place, "acquire", 8), 0)
"""load(address): read anew each time; a plain load is moved out of a loop."""
store = _operation(_store, 1)
"""store(address, value): what was written before is seen by who sees the value."""
add = _operation(lambda b, place, value: b.atomic_rmw("add", place, value, "acq_rel"), 1)
"""add(address, value): the word before."""
exchange = _operation(
    lambda b, place, expected, value: b.extract_value(b.cmpxchg(place, expected, value, "acq_rel", "acquire"), 1),
    2,
    types.boolean,
)
"""exchange(address, expected, value): whether the word was as expected, and so was replaced."""


@njit(inline="always")
def stopped(at):
    """Whether the job is over (job.py) that a kernel with its words at this address works for: a look at two words.

    Kernels ask between blocks, and leave the rest undone.
    """
    return load(load(at - 8)) != 0


@intrinsic
def call(_context, function, words, first, last):
    """Call the kernel at the address `function`: it gets the address of its words, and its tasks."""

    def generate(_context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
        b.call(b.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return i64(0)

    return types.int64(*[types.int64] * 4), generate


@intrinsic
def copy(_context, to, of, size):
    """Copy so many bytes from address to address, as C's memcpy does."""

    def generate(_context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(I8.as_pointer(), [I8.as_pointer(), I8.as_pointer(), I64])
        function = cgutils.get_or_insert_function(b.module, kind, "memcpy")
        to, of = (b.inttoptr(address, I8.as_pointer()) for address in arguments[:2])
        b.call(function, [to, of, arguments[2]])
        return i64(0)

    return types.int64(*[types.int64] * 3), generate


@intrinsic
def give_way(_context):
    """Let another thread have this processor, if one waits for it."""

    def generate(_context: Any, b: Any, _signature: Any, _arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, []), "sched_yield")
        b.call(function, [])
        return i64(0)

    return types.int64(), generate


@intrinsic
def nap(_context, microseconds):
    """Sleep for about so many microseconds."""

    def generate(_context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, [I32]), "usleep")
        b.call(function, [b.trunc(arguments[0], I32)])
        return i64(0)

    return types.int64(types.int64), generate


@intrinsic
def fence(_context):
    """What was stored before is seen by all before anything after this is read."""

    def generate(_context: Any, b: Any, _signature: Any, _arguments: Any) -> Any:
        b.fence("seq_cst")
        return i64(0)

    return types.int64(), generate
