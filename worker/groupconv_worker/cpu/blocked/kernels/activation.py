"""Activations of vectors: emitted by the code among a kernel's words, so one kernel serves all of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from groupconv_worker.cpu.kernels.simd import Simd, i64

Emit = Callable[..., Any]


def clip(s: Simd, vector: Any, low: Any, high: Any) -> Any:
    """Each lane between two vectors of bounds; a NaN stays a NaN."""
    b = s.builder
    vector = b.select(b.fcmp_ordered("<", vector, low), low, vector)
    return b.select(b.fcmp_ordered(">", vector, high), high, vector)


@intrinsic
def activate(_context, address, code, first, second):
    """Apply the activation `code` with its two parameters (float32) to the vector of float32 at an address."""
    signature = types.void(types.int64, types.int64, types.float32, types.float32)

    def generate(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        s = Simd(b, ir.FloatType())
        place = b.inttoptr(arguments[0], s.element.as_pointer())
        first, second = map(s.splat, arguments[2:])
        x = s.load(place)
        done = b.append_basic_block("done")
        choice = b.switch(arguments[1], done)
        for number, emit in enumerate(ACTIVATIONS.values()):
            case = b.append_basic_block(f"activation{number}")
            choice.add_case(i64(number), case)
            b.position_at_end(case)
            s.store(emit(s, x, first, second), place)
            b.branch(done)
        b.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


def constant(s: Simd, value: float) -> Any:
    """The float32 nearest to a number in every lane."""
    return ir.Constant(s.type, [float(np.float32(value))] * s.lanes)


def polynomial(s: Simd, x: Any, factors: tuple[float, ...]) -> Any:
    """Horner's rule, the highest power first."""
    total = constant(s, factors[0])
    for factor in factors[1:]:
        total = s.multiply_add(total, x, constant(s, factor))
    return total


def exponential(s: Simd, x: Any) -> Any:
    """e to the power of each lane, to 2 ulp; beyond ±87 as at ±87.

    x = n·ln 2 + r, and a polynomial of r; n goes into the exponent. Source: Cephes' expf.
    """
    b = s.builder
    x = clip(s, x, constant(s, -87.0), constant(s, 87.0))
    shift = constant(s, 1.5 * 2**23)  # adding it rounds to an integer, which is in the low bits then
    shifted = s.multiply_add(x, constant(s, math.log2(math.e)), shift)
    n = b.fsub(shifted, shift)
    r = s.multiply_add(n, constant(s, -0.693359375), x)
    r = s.multiply_add(n, constant(s, 2.12194440e-4), r)
    factors = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5, 1.0, 1.0)
    power = b.shl(b.bitcast(shifted, s.index_type), ir.Constant(s.index_type, [23] * s.lanes))
    return b.bitcast(b.add(b.bitcast(polynomial(s, r, factors), s.index_type), power), s.type)


def sigmoid(s: Simd, x: Any) -> Any:
    """1 / (1 + e⁻ˣ)."""
    b, one = s.builder, constant(s, 1.0)
    return b.fdiv(one, b.fadd(one, exponential(s, b.fsub(s.zero, x))))


def tanh(s: Simd, x: Any) -> Any:
    """Hyperbolic tangent: a polynomial near 0, where the other way would cancel. Source: Cephes' tanhf."""
    b, one = s.builder, constant(s, 1.0)
    square = b.fmul(x, x)
    factors = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
    near = s.multiply_add(b.fmul(polynomial(s, square, factors), square), x, x)
    far = b.fsub(one, b.fdiv(constant(s, 2.0), b.fadd(exponential(s, b.fadd(x, x)), one)))
    return b.select(b.fcmp_ordered("<", square, constant(s, 0.625**2)), near, far)


def leaky_relu(s: Simd, x: Any, slope: Any, _: Any) -> Any:
    """Each lane, times the slope below zero."""
    b = s.builder
    return b.select(b.fcmp_ordered("<", x, s.zero), b.fmul(x, slope), x)


def _hard_sigmoid(s: Simd, x: Any, alpha: Any, beta: Any) -> Any:
    return clip(s, s.multiply_add(x, alpha, beta), s.zero, constant(s, 1.0))


def _hard_swish(s: Simd, x: Any, _first: Any, _second: Any) -> Any:
    return s.builder.fmul(x, _hard_sigmoid(s, x, constant(s, 1 / 6), constant(s, 0.5)))


ACTIVATIONS: dict[str, Emit] = {
    "Clip": clip,
    "LeakyRelu": leaky_relu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Sigmoid": lambda s, x, _first, _second: sigmoid(s, x),
    "Silu": lambda s, x, _first, _second: s.builder.fmul(x, sigmoid(s, x)),
    "Tanh": lambda s, x, _first, _second: tanh(s, x),
}
"""What emits an activation (Simd, vector, two parameters), by ONNX's name. Relu is a Clip, as is none at all."""
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
CLIP = CODES["Clip"]
