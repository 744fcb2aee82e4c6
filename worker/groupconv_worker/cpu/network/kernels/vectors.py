"""A vector of float32 as a value of Numba: kernels hold some in local variables, which LLVM keeps in registers.

Operators between convolutions need no register blocking, so they are written as loops over such values.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.kernels.simd import I32, Simd, i64


class VectorType(types.Type):  # type: ignore[misc]
    """The type of `LANES` float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


VECTOR = VectorType()


@register_model(VectorType)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.FloatType(), LANES))


def floats(b: Any, address: Any) -> Any:
    """A pointer to float32 at an address."""
    return b.inttoptr(address, ir.FloatType().as_pointer())


def _operation(emit: Callable[..., Any], arguments: int, result: Any = VECTOR) -> Any:
    """An intrinsic that emits instructions on vectors, addresses and numbers."""

    def typed(*given: Any) -> Any:
        def generate(context: Any, b: Any, _signature: Any, values: Any) -> Any:
            made = emit(Simd(b, ir.FloatType()), *values)
            return context.get_dummy_value() if result is types.void else made

        return result(*given), generate

    if arguments == 1:

        @intrinsic
        def operation(_context, a):
            return typed(a)
    elif arguments == 2:

        @intrinsic
        def operation(_context, a, b):
            return typed(a, b)
    else:

        @intrinsic
        def operation(_context, a, b, c):
            return typed(a, b, c)

    return operation


def _maximum(s: Simd, a: Any, b: Any) -> Any:
    return s.builder.select(s.builder.fcmp_ordered(">", a, b), a, b)


def _minimum(s: Simd, a: Any, b: Any) -> Any:
    return s.builder.select(s.builder.fcmp_ordered("<", a, b), a, b)


def _folded(s: Simd, vector: Any, join: Callable[[Simd, Any, Any], Any]) -> Any:
    """One number of all lanes: halves are joined until one lane is left."""
    half = s.lanes // 2
    while half:
        vector = join(s, vector, s.shift(vector, half))
        half //= 2
    return s.builder.extract_element(vector, ir.Constant(I32, 0))


load = _operation(lambda s, address: s.load(floats(s.builder, address)), 1)
"""load(address): the vector there."""
load_first = _operation(lambda s, address, count: s.load_masked(floats(s.builder, address), s.inside(i64(0), count)), 2)
"""load_first(address, count): so many lanes of it, the others 0 and not read."""
store = _operation(lambda s, address, vector: s.store(vector, floats(s.builder, address)), 2, types.void)
"""store(address, vector)."""
store_first = _operation(
    lambda s, address, vector, count: s.store_first(vector, floats(s.builder, address), count), 3, types.void
)
"""store_first(address, vector, count): so many lanes of it."""
splat = _operation(lambda s, number: s.splat(number), 1)
"""splat(number): the float32 in every lane."""
maximum = _operation(_maximum, 2)
"""maximum(a, b): b where either is a NaN."""
minimum = _operation(_minimum, 2)
"""minimum(a, b): b where either is a NaN."""
multiply_add = _operation(lambda s, a, b, c: s.multiply_add(a, b, c), 3)
"""multiply_add(a, b, c): a·b + c."""
total = _operation(lambda s, v: _folded(s, v, lambda s, a, b: s.builder.fadd(a, b)), 1, types.float32)
"""total(vector): the sum of all lanes."""
largest = _operation(lambda s, v: _folded(s, v, _maximum), 1, types.float32)
"""largest(vector): of all lanes."""
_FOUR = {
    operator.add: _operation(lambda s, a, b: s.builder.fadd(a, b), 2),
    operator.sub: _operation(lambda s, a, b: s.builder.fsub(a, b), 2),
    operator.mul: _operation(lambda s, a, b: s.builder.fmul(a, b), 2),
    operator.truediv: _operation(lambda s, a, b: s.builder.fdiv(a, b), 2),
}


def _overloaded(symbol: Callable[..., Any], emit: Any) -> None:
    @overload(symbol)
    def vectors(a, b):
        def of_vectors(a, b):
            return emit(a, b)

        return of_vectors if isinstance(a, VectorType) and isinstance(b, VectorType) else None


for _symbol, _emit in _FOUR.items():
    _overloaded(_symbol, _emit)
