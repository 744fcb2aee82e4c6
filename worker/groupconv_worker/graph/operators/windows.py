"""Convolutions and pools: each output sees a window of the input.

Source: the ONNX operators Conv, ConvTranspose, MaxPool, AveragePool, LpPool and the global pools.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from groupconv_worker.graph.operators.call import Call, Definition


def _pairs(values: Any) -> tuple[tuple[int, int], ...]:
    """ONNX's pads, starts before ends, as one pair for each axis."""
    half = len(values) // 2
    return tuple(zip(values[:half], values[half:], strict=True))


def _convolution(call: Call) -> Any:
    """Each tap is a matrix product, (filters, channels) by (channels, places), in each group."""
    groups, weight = call.attribute("group", 1), call.inputs[1]
    n, channels = call.x.shape[:2]
    filters = weight.reshape(groups, -1, *weight.shape[1:])  # (groups, M/g, C/g, *kernel)
    y = np.zeros((n, groups, len(weight) // groups, math.prod(call.shape[2:])))
    for tap, seen in _windows(call, 0, call.shape[2:]):
        y += call.product(filters[(..., *tap)], seen.reshape(n, groups, channels // groups, -1))
    return _with_bias(y.reshape(call.shape), call.given(2))


def _transposed_convolution(call: Call) -> Any:
    """Each tap adds its product to the outputs it reaches, which lie its strides apart; then padding is cut off."""
    groups, weight = call.attribute("group", 1), call.inputs[1]
    n, channels, *space = call.x.shape
    strides, dilations = call.attribute("strides"), call.attribute("dilations")
    kernel, starts = weight.shape[2:], call.attribute("pads")
    reach = [(e - 1) * s + d * (k - 1) + 1 for e, s, d, k in zip(space, strides, dilations, kernel, strict=True)]
    wide = [max(r, start + o) for r, start, o in zip(reach, starts, call.shape[2:], strict=False)]
    filters = weight.reshape(groups, channels // groups, *weight.shape[1:]).swapaxes(1, 2)  # (groups, M/g, C/g, …)
    x = call.x.reshape(n, groups, channels // groups, -1)
    y = np.zeros((n, call.shape[1], *wide))
    for tap in itertools.product(*map(range, kernel)):
        reached = [
            slice(k * d, k * d + (e - 1) * s + 1, s) for k, d, e, s in zip(tap, dilations, space, strides, strict=True)
        ]
        y[:, :, *reached] += call.product(filters[(..., *tap)], x).reshape(n, -1, *space)
    cropped = [slice(start, start + o) for start, o in zip(starts, call.shape[2:], strict=False)]
    return _with_bias(y[:, :, *cropped], call.given(2))


def _with_bias(y: Any, bias: Any) -> Any:
    return y if bias is None else y + bias.reshape(-1, *(1,) * (y.ndim - 2))


def _windows(call: Call, fill: float, extents: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """For each tap, its place in the kernel and what it sees, (N, C, *extents). `fill` lies around the input."""
    strides, dilations = call.attribute("strides"), call.attribute("dilations")
    kernel, pads = call.attribute("kernel_shape"), _pairs(call.attribute("pads"))
    ends = [
        max(end, (o - 1) * s + d * (k - 1) + 1 - start - n)
        for (start, end), o, s, d, k, n in zip(pads, extents, strides, dilations, kernel, call.x.shape[2:], strict=True)
    ]
    around = [(start, end) for (start, _), end in zip(pads, ends, strict=True)]
    padded = np.pad(call.x, ((0, 0), (0, 0), *around), constant_values=fill)
    for tap in itertools.product(*map(range, kernel)):
        window = [
            slice(k * d, k * d + (o - 1) * s + 1, s)
            for k, d, o, s in zip(tap, dilations, extents, strides, strict=True)
        ]
        yield tap, padded[:, :, *window]


def _max_pool(call: Call) -> Any:
    extents = call.shape[2:]
    lowest = np.iinfo(call.x.dtype).min if np.issubdtype(call.x.dtype, np.integer) else -np.inf
    values = np.stack([seen for _, seen in _windows(call, lowest, extents)])
    if len(call.outputs) < 2 or call.outputs[1] is None:
        return values.max(0)
    # the second output says where each maximum is: in rows, or in columns, of the whole input
    order = (0, 1, *range(call.x.ndim - 1, 1, -1)) if call.attribute("storage_order", 0) else range(call.x.ndim)
    places = np.arange(call.x.size).reshape([call.x.shape[axis] for axis in order]).transpose(np.argsort(order))
    seen_places = np.stack([seen for _, seen in _windows(replace(call, inputs=[places]), -1, extents)])
    return values.max(0), np.take_along_axis(seen_places, values.argmax(0)[None], 0)[0]


def _average_pool(call: Call) -> Any:
    """Padding counts if `count_include_pad`; what lies behind it, where `ceil_mode` adds a window, never does."""
    total: Any = sum(seen for _, seen in _windows(call, 0, call.shape[2:]))
    ones, node = np.ones((1, 1, *call.x.shape[2:])), call.node
    if call.attribute("count_include_pad", 0):
        ones = np.pad(ones, ((0, 0), (0, 0), *_pairs(call.attribute("pads"))), constant_values=1)
        node = replace(node, attributes={**node.attributes, "pads": (0,) * 2 * (call.x.ndim - 2)})
    counted: Any = sum(seen for _, seen in _windows(replace(call, node=node, inputs=[ones]), 0, call.shape[2:]))
    return total / counted


def _lp_pool(call: Call) -> Any:
    p = call.attribute("p", 2)
    total: Any = sum(np.abs(seen) ** p for _, seen in _windows(call, 0, call.shape[2:]))
    return total ** (1 / p)


def _global(reduce: Any) -> Definition:
    return lambda call: reduce(call.x, tuple(range(2, call.x.ndim)))


def _global_lp(call: Call) -> Any:
    p = call.attribute("p", 2)
    return (np.abs(call.x) ** p).sum(tuple(range(2, call.x.ndim)), keepdims=True) ** (1 / p)


WINDOWS: dict[str, Definition] = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "GlobalAveragePool": _global(lambda x, axes: x.mean(axes, keepdims=True)),
    "GlobalLpPool": _global_lp,
    "GlobalMaxPool": _global(lambda x, axes: x.max(axes, keepdims=True)),
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
}
