"""Functions of each element, chosen by a code among a kernel's words: one kernel serves all of them."""

import math
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.blocked.kernels.activation import (
    ACTIVATIONS,
    Emit,
    constant,
    exponential,
    leaky_relu,
    polynomial,
    tanh,
)
from groupconv_worker.cpu.kernels.simd import Simd, i64
from groupconv_worker.cpu.network.kernels.vectors import VECTOR


def _library(name: str) -> Emit:
    """A function that LLVM has an instruction or a routine for."""

    def emit(s: Simd, x: Any, _first: Any, _second: Any) -> Any:
        kind = ir.FunctionType(s.type, [s.type])
        function = cgutils.get_or_insert_function(s.builder.module, kind, f"llvm.{name}.v{s.lanes}f32")
        return s.builder.call(function, [x])

    return emit


def _erf(s: Simd, x: Any) -> Any:
    """The error function to 1.5e-7. Source: Abramowitz and Stegun, 7.1.26; a Taylor series near 0."""
    b = s.builder
    size = _library("fabs")(s, x, None, None)
    t = b.fdiv(constant(s, 1.0), s.multiply_add(size, constant(s, 0.3275911), constant(s, 1.0)))
    total = polynomial(s, t, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))
    gauss = exponential(s, b.fsub(s.zero, b.fmul(size, size)))
    far = b.fsub(constant(s, 1.0), b.fmul(b.fmul(total, t), gauss))
    far = b.select(b.fcmp_ordered("<", x, s.zero), b.fsub(s.zero, far), far)
    series = polynomial(s, b.fmul(x, x), (-1 / 42, 1 / 10, -1 / 3, 1.0))
    near = b.fmul(b.fmul(series, x), constant(s, 2 / math.sqrt(math.pi)))
    return b.select(b.fcmp_ordered("<", size, constant(s, 0.3)), near, far)


def _gelu(s: Simd, x: Any, _first: Any, _second: Any) -> Any:
    b = s.builder
    half = b.fmul(x, constant(s, 0.5))
    return s.multiply_add(half, _erf(s, b.fmul(x, constant(s, math.sqrt(0.5)))), half)


def _gelu_tanh(s: Simd, x: Any, _first: Any, _second: Any) -> Any:
    b = s.builder
    inner = b.fmul(x, s.multiply_add(b.fmul(x, x), constant(s, 0.044715), constant(s, 1.0)))
    half = b.fmul(x, constant(s, 0.5))
    return s.multiply_add(half, tanh(s, b.fmul(inner, constant(s, math.sqrt(2 / math.pi)))), half)


def _log(s: Simd, x: Any) -> Any:
    """The natural logarithm: that of the mantissa by a polynomial, and the exponent. Source: Cephes' logf."""
    b = s.builder

    def integers(value: int) -> Any:
        return ir.Constant(s.index_type, [value] * s.lanes)

    bits = b.bitcast(x, s.index_type)
    exponent = b.sitofp(b.sub(b.lshr(bits, integers(23)), integers(126)), s.type)
    mantissa = b.bitcast(b.or_(b.and_(bits, integers(0x7FFFFF)), integers(0x3F000000)), s.type)
    small = b.fcmp_ordered("<", mantissa, constant(s, math.sqrt(0.5)))
    one = constant(s, 1.0)
    exponent = b.select(small, b.fsub(exponent, one), exponent)
    m = b.fsub(b.select(small, b.fadd(mantissa, mantissa), mantissa), one)
    square = b.fmul(m, m)
    factors = (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )  # fmt: skip
    total = polynomial(s, m, factors)
    total = s.multiply_add(exponent, constant(s, -2.12194440e-4), b.fmul(b.fmul(total, m), square))
    total = b.fadd(m, s.multiply_add(square, constant(s, -0.5), total))
    total = s.multiply_add(exponent, constant(s, 0.693359375), total)
    total = b.select(b.fcmp_unordered("<", x, s.zero), constant(s, math.nan), total)
    total = b.select(b.fcmp_ordered("==", x, s.zero), constant(s, -math.inf), total)
    return b.select(b.fcmp_ordered("==", x, constant(s, math.inf)), x, total)


def _elu(s: Simd, x: Any, alpha: Any, scale: Any) -> Any:
    """alpha·(e^(x / scale) - 1) below zero."""
    b = s.builder
    below = b.fmul(alpha, b.fsub(exponential(s, b.fdiv(x, scale)), constant(s, 1.0)))
    return b.select(b.fcmp_ordered("<", x, s.zero), below, x)


def _selu(s: Simd, x: Any, alpha: Any, gamma: Any) -> Any:
    return s.builder.fmul(gamma, _elu(s, x, alpha, constant(s, 1.0)))


def _softsign(s: Simd, x: Any, _first: Any, _second: Any) -> Any:
    size = _library("fabs")(s, x, None, None)
    return s.builder.fdiv(x, s.builder.fadd(size, constant(s, 1.0)))


def _softplus(s: Simd, x: Any) -> Any:
    b = s.builder
    size = _library("fabs")(s, x, None, None)
    rest = _log(s, b.fadd(exponential(s, b.fsub(s.zero, size)), constant(s, 1.0)))
    return b.fadd(b.select(b.fcmp_ordered("<", x, s.zero), s.zero, x), rest)


def _power(s: Simd, x: Any, y: Any, _c: Any) -> Any:
    """x to the power of y, by logarithm and exponential: to about 1e-5 relative. Below 0 for integers y alone."""
    b, one, inf = s.builder, constant(s, 1.0), constant(s, math.inf)
    size = _library("fabs")(s, x, None, None)
    whole = b.fcmp_ordered("==", _library("floor")(s, y, None, None), y)
    half = b.fmul(y, constant(s, 0.5))
    even = b.fcmp_ordered("==", _library("floor")(s, half, None, None), half)
    found = exponential(s, b.fmul(y, _log(s, size)))
    at_zero = b.select(b.fcmp_ordered("<", y, s.zero), inf, s.zero)
    found = b.select(b.fcmp_ordered("==", size, s.zero), at_zero, found)
    negative = b.select(even, found, b.fsub(s.zero, found))
    negative = b.select(whole, negative, constant(s, math.nan))
    found = b.select(b.fcmp_ordered("<", x, s.zero), negative, found)
    return b.select(b.fcmp_ordered("==", y, s.zero), one, found)


def _compared(sign: str) -> Emit:
    """1 where it holds, else 0."""

    def emit(s: Simd, a: Any, b: Any, _c: Any) -> Any:
        compare = s.builder.fcmp_unordered if sign == "!=" else s.builder.fcmp_ordered
        return s.builder.select(compare(sign, a, b), constant(s, 1.0), s.zero)

    return emit


UNARY: dict[str, Emit] = {
    **ACTIVATIONS,
    "Exp": lambda s, x, *_: exponential(s, x),
    "Sqrt": _library("sqrt"),
    "Abs": _library("fabs"),
    "Floor": _library("floor"),
    "Ceil": _library("ceil"),
    "Round": _library("rint"),
    "Neg": lambda s, x, *_: s.builder.fsub(constant(s, -0.0), x),
    "Reciprocal": lambda s, x, *_: s.builder.fdiv(constant(s, 1.0), x),
    "Erf": lambda s, x, *_: _erf(s, x),
    "Gelu": _gelu,
    "GeluTanh": _gelu_tanh,
    "Log": lambda s, x, *_: _log(s, x),
    "Elu": _elu,
    "Selu": _selu,
    "Softsign": _softsign,
    "ThresholdedRelu": lambda s, x, alpha, _: s.builder.select(s.builder.fcmp_ordered(">", x, alpha), x, s.zero),
    "Softplus": lambda s, x, *_: _softplus(s, x),
    "Mish": lambda s, x, *_: s.builder.fmul(x, tanh(s, _softplus(s, x))),
    "Square": lambda s, x, *_: s.builder.fmul(x, x),
}
"""Emitters of functions of one vector and two parameters, by ONNX's name."""
BINARY: dict[str, Emit] = {
    "First": lambda _s, a, _b, _c: a,
    "Add": lambda s, a, b, _c: s.builder.fadd(a, b),
    "Sub": lambda s, a, b, _c: s.builder.fsub(a, b),
    "Mul": lambda s, a, b, _c: s.builder.fmul(a, b),
    "Div": lambda s, a, b, _c: s.builder.fdiv(a, b),
    "Max": lambda s, a, b, _c: s.builder.select(s.builder.fcmp_ordered("<", a, b), b, a),
    "Min": lambda s, a, b, _c: s.builder.select(s.builder.fcmp_ordered(">", a, b), b, a),
    "PRelu": lambda s, a, b, _c: leaky_relu(s, a, b, None),
    "Pow": _power,
    "Less": _compared("<"),
    "LessOrEqual": _compared("<="),
    "Greater": _compared(">"),
    "GreaterOrEqual": _compared(">="),
    "Equal": _compared("=="),
    "NotEqual": _compared("!="),
    "Where": lambda s, a, b, c: s.builder.select(s.builder.fcmp_unordered("!=", a, s.zero), b, c),
    "MultiplyAdd": lambda s, a, b, c: s.multiply_add(a, b, c),
}
"""Emitters of functions of up to three vectors."""
UNARY_CODES = {name: code for code, name in enumerate(UNARY)}
BINARY_CODES = {name: code for code, name in enumerate(BINARY)}


def _chosen(s: Simd, code: Any, table: dict[str, Emit], *given: Any) -> Any:
    """The result of the function whose code it is."""
    b = s.builder
    found = cgutils.alloca_once(b, s.type)
    b.store(given[0], found)
    done = b.append_basic_block("done")
    choice = b.switch(code, done)
    for number, emit in enumerate(table.values()):
        case = b.append_basic_block(f"case{number}")
        choice.add_case(i64(number), case)
        b.position_at_end(case)
        b.store(emit(s, *given), found)
        b.branch(done)
    b.position_at_end(done)
    return b.load(found)


@intrinsic
def apply(_context, code, x, first, second):
    """The function `code` of `UNARY` of a vector, with two vectors of parameters."""

    def generate(_context: Any, b: Any, _signature: Any, values: Any) -> Any:
        return _chosen(Simd(b, ir.FloatType()), values[0], UNARY, *values[1:])

    return VECTOR(code, x, first, second), generate


@intrinsic
def combine(_context, code, a, b, c):
    """The function `code` of `BINARY` of three vectors."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return _chosen(Simd(builder, ir.FloatType()), values[0], BINARY, *values[1:])

    return VECTOR(code, a, b, c), generate
