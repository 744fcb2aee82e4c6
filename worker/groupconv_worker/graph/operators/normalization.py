"""Normalizations: each output depends on sums over some axes.

Source: the ONNX operators.
"""

from typing import Any

import numpy as np

from groupconv_worker.graph.operators.call import Call, Definition


def _by_channel(values: Any, rank: int) -> Any:
    """(C,) as (C, 1, …), which broadcasts over (N, C, …)."""
    return values.reshape(-1, *(1,) * (rank - 2))


def _normalized(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    centered = x - x.mean(axes, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axes, keepdims=True) + epsilon)


def _batch(call: Call) -> Any:
    scale, shift, mean, variance = (_by_channel(values, call.x.ndim) for values in call.inputs[1:5])
    return (call.x - mean) / np.sqrt(variance + call.attribute("epsilon", 1e-5)) * scale + shift


def _affine_channel(call: Call) -> Any:
    scale, shift = (_by_channel(values, call.x.ndim) for values in call.inputs[1:3])
    return call.x * scale + shift


def _instance(call: Call) -> Any:
    scale, shift = (_by_channel(values, call.x.ndim) for values in call.inputs[1:3])
    axes = tuple(range(2, call.x.ndim))
    return _normalized(call.x, axes, call.attribute("epsilon", 1e-5)) * scale + shift


def _group(call: Call) -> Any:
    """Scale and bias are per channel, or per group as in operator set 18."""
    groups = call.attribute("num_groups")
    n, channels = call.x.shape[:2]
    grouped = call.x.reshape(n, groups, -1)
    normalized = _normalized(grouped, (2,), call.attribute("epsilon", 1e-5)).reshape(call.x.shape)
    scale, shift = (np.repeat(values, channels // len(values)) for values in call.inputs[1:3])
    return normalized * _by_channel(scale, call.x.ndim) + _by_channel(shift, call.x.ndim)


def _layer(call: Call) -> Any:
    axes = tuple(range(call.attribute("axis", -1) % call.x.ndim, call.x.ndim))
    epsilon = call.attribute("epsilon", 1e-5)
    mean = call.x.mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(((call.x - mean) ** 2).mean(axes, keepdims=True) + epsilon)
    y = (call.x - mean) * inverse * call.inputs[1]
    bias = call.given(2)
    return (y if bias is None else y + bias), mean, inverse


def _local_response(call: Call) -> Any:
    size, channels = call.attribute("size"), call.x.shape[1]
    before = (size - 1) // 2
    squares = np.pad(call.x**2, ((0, 0), (before, size - 1 - before), *((0, 0),) * (call.x.ndim - 2)))
    total: Any = sum(squares[:, i : i + channels] for i in range(size))
    alpha, beta, bias = (call.attribute(n, d) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return call.x / (bias + alpha / size * total) ** beta


def _softmax(call: Call) -> Any:
    return np.exp(_log_softmax(call))


def _log_softmax(call: Call) -> Any:
    axis = call.attribute("axis", -1)
    lowered = call.x - call.x.max(axis, keepdims=True)
    return lowered - np.log(np.exp(lowered).sum(axis, keepdims=True))


def _lp(call: Call) -> Any:
    axis, p = call.attribute("axis", -1), call.attribute("p", 2)
    length = (np.abs(call.x) ** p).sum(axis, keepdims=True) ** (1 / p)
    return np.divide(call.x, length, out=np.zeros_like(call.x), where=length != 0)


NORMALIZATION: dict[str, Definition] = {
    "AffineChannel": _affine_channel,
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LRN": _local_response,
    "LayerNormalization": _layer,
    "LogSoftmax": _log_softmax,
    "LpNormalization": _lp,
    "Softmax": _softmax,
}
