"""Operators that compute each element from the elements at its place, by broadcasting.

Source: the ONNX operators.
"""

import functools
from typing import Any

import numpy as np
import scipy.special

from groupconv_worker.graph.operators.call import Call, Definition


def sigmoid(x: Any) -> Any:
    """1 / (1 + e⁻ˣ), which does not overflow."""
    return scipy.special.expit(x)


def _unary(function: Any) -> Definition:
    return lambda call: function(call.x)


def _binary(function: Any) -> Definition:
    return lambda call: function(call.inputs[0], call.inputs[1])


def _folded(function: Any) -> Definition:
    return lambda call: functools.reduce(function, call.inputs)


def _with(function: Any, **defaults: Any) -> Definition:
    """A function of x and of attributes that have defaults."""
    return lambda call: function(call.x, *(call.attribute(name, value) for name, value in defaults.items()))


def _clip(call: Call) -> Any:
    low, high = call.option("min", 1), call.option("max", 2)
    clipped = call.x if low is None else np.maximum(call.x, low)
    return clipped if high is None else np.minimum(clipped, high)


def _div(a: Any, b: Any) -> Any:
    return np.divide(a, b) if np.issubdtype(np.result_type(a, b), np.floating) else np.trunc(a / b).astype(a.dtype)


def _pow(a: Any, b: Any) -> Any:
    return np.power(a, b).astype(a.dtype) if np.issubdtype(a.dtype, np.integer) else np.power(a, b)


def _mod(call: Call) -> Any:
    function = np.fmod if call.attribute("fmod", 0) else np.mod
    return function(call.inputs[0], call.inputs[1])


def _mean(call: Call) -> Any:
    return functools.reduce(np.add, call.inputs) / len(call.inputs)


def _gelu(x: Any, approximate: str) -> Any:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2)))


def _isinf(call: Call) -> Any:
    infinite = np.zeros(call.x.shape, bool)
    if call.attribute("detect_positive", 1):
        infinite |= np.isposinf(call.x)
    if call.attribute("detect_negative", 1):
        infinite |= np.isneginf(call.x)
    return infinite


def _cast(call: Call) -> Any:
    """To integers and bools. Floats are float64 here, whatever they are in the network."""
    dtype = call.output.dtype
    if call.x.dtype == np.float64 and np.issubdtype(dtype, np.integer):
        return np.trunc(call.x).astype(dtype)
    return call.x.astype(dtype)


_SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}

POINTWISE: dict[str, Definition] = {
    "Abs": _unary(np.abs),
    "Acos": _unary(np.arccos),
    "Acosh": _unary(np.arccosh),
    "Add": _binary(np.add),
    "And": _binary(np.logical_and),
    "Asin": _unary(np.arcsin),
    "Asinh": _unary(np.arcsinh),
    "Atan": _unary(np.arctan),
    "Atanh": _unary(np.arctanh),
    "Cast": _cast,
    "Ceil": _unary(np.ceil),
    "Celu": _with(lambda x, alpha: np.maximum(x, 0) + np.minimum(alpha * np.expm1(x / alpha), 0), alpha=1.0),
    "Clip": _clip,
    "Cos": _unary(np.cos),
    "Cosh": _unary(np.cosh),
    "Div": _binary(_div),
    "Elu": _with(lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), alpha=1.0),
    "Equal": _binary(np.equal),
    "Erf": _unary(scipy.special.erf),
    "Exp": _unary(np.exp),
    "Floor": _unary(np.floor),
    "Gelu": _with(_gelu, approximate="none"),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "HardSigmoid": _with(lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), alpha=0.2, beta=0.5),
    "HardSwish": _unary(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Identity": _unary(lambda x: x),
    "IsInf": _isinf,
    "IsNaN": _unary(np.isnan),
    "LeakyRelu": _with(lambda x, alpha: np.where(x >= 0, x, alpha * x), alpha=0.01),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Log": _unary(np.log),
    "Max": _folded(np.maximum),
    "Mean": _mean,
    "Min": _folded(np.minimum),
    "Mish": _unary(lambda x: x * np.tanh(np.logaddexp(0, x))),
    "Mod": _mod,
    "Mul": _binary(np.multiply),
    "Neg": _unary(np.negative),
    "Not": _unary(np.logical_not),
    "Or": _binary(np.logical_or),
    "Pow": _binary(_pow),
    "PRelu": _binary(lambda x, slope: np.where(x >= 0, x, slope * x)),
    "Reciprocal": _unary(np.reciprocal),
    "Relu": _unary(lambda x: np.maximum(x, 0)),
    "Round": _unary(np.rint),
    "Selu": _with(lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), **_SELU),
    "Shrink": _with(
        lambda x, lambd, bias: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0)), lambd=0.5, bias=0.0
    ),
    "Sigmoid": _unary(sigmoid),
    "Sign": _unary(np.sign),
    "Silu": _unary(lambda x: x * sigmoid(x)),
    "Sin": _unary(np.sin),
    "Sinh": _unary(np.sinh),
    "Softplus": _unary(lambda x: np.logaddexp(0, x)),
    "Softsign": _unary(lambda x: x / (1 + np.abs(x))),
    "Sqrt": _unary(np.sqrt),
    "Sub": _binary(np.subtract),
    "Sum": _folded(np.add),
    "Swish": _with(lambda x, alpha: x * sigmoid(alpha * x), alpha=1.0),
    "Tan": _unary(np.tan),
    "Tanh": _unary(np.tanh),
    "ThresholdedRelu": _with(lambda x, alpha: np.where(x > alpha, x, 0), alpha=1.0),
    "Where": lambda call: np.where(call.x, call.inputs[1], call.inputs[2]),
    "Xor": _binary(np.logical_xor),
}
