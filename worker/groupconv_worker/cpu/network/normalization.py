"""Lowering of normalizations: statistics of rows where they are not constants, then a factor and a summand."""

import math
from collections.abc import Sequence

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.network.assembly import aligned_copy
from groupconv_worker.cpu.network.kernels import rows
from groupconv_worker.cpu.network.kernels.pointwise import SAME
from groupconv_worker.cpu.network.lowering import CpuLowering
from groupconv_worker.cpu.network.pointwise import Side, on_arrays, on_map, whole
from groupconv_worker.graph.graph import Node, UnsupportedNodeError


def lower_batch_normalization(low: CpuLowering, node: Node) -> None:
    """BatchNormalization: a factor and a summand for each channel."""
    scale, bias, mean, variance = _constants(low, node.inputs[1:5])
    factor = scale / np.sqrt(variance + node.attribute("epsilon", 1e-5))
    _affine(low, node, factor, bias - mean * factor)


def lower_affine(low: CpuLowering, node: Node) -> None:
    """AffineChannel."""
    _affine(low, node, *_constants(low, node.inputs[1:3]))


def lower_layer_normalization(low: CpuLowering, node: Node) -> None:
    """LayerNormalization over the last axis."""
    shape = low.shape(node.inputs[0])
    if node.attribute("axis", -1) % len(shape) != len(shape) - 1 or any(node.outputs[1:]):
        raise UnsupportedNodeError("over more than the last axis, or with statistics")
    factor, *bias = _constants(low, node.inputs[1:])
    _normalize(low, node, shape[-1], factor, bias[0] if bias else np.zeros(1))


def lower_instance_normalization(low: CpuLowering, node: Node) -> None:
    """InstanceNormalization and GroupNormalization, whose weights go by channel, or before operator set 21 by group."""
    shape = low.shape(node.inputs[0])
    channels, each = shape[1], (-1, *(1,) * (len(shape) - 2))
    constants = _constants(low, node.inputs[1:3])
    factor, bias = (np.repeat(values, channels // len(values)).reshape(each) for values in constants)
    _normalize(low, node, math.prod(shape[1:]) // node.attribute("num_groups", channels), factor, bias)


def _constants(low: CpuLowering, names: Sequence[str]) -> list[Array]:
    arrays = [low.constant(name) for name in names if name]
    if any(array is None for array in arrays):
        raise UnsupportedNodeError("weights that are no constants")
    return [np.asarray(array, np.float64) for array in arrays]


def _normalize(low: CpuLowering, node: Node, length: int, factor: Array, summand: Array) -> None:
    """Normalize rows of so many elements, then multiply and add by arrays that broadcast to the output."""
    x, y = node.inputs[0], node.outputs[0]
    shape = low.shape(x)
    normalized = low.assembly.block(low.graph.tensors[x].nbytes)
    words = (low.array(x), normalized, rows.NORMALIZE, length, np.array([node.attribute("epsilon", 1e-5)], np.float32))
    low.assembly.add(low.assembly.kernel(rows.rows), words, math.prod(shape) // max(1, length))
    constants = [(aligned_copy(values), values.shape) for values in (factor, summand)]
    on_arrays(low, "MultiplyAdd", [(normalized, shape), *constants], y, ())


def _affine(low: CpuLowering, node: Node, factor: Array, summand: Array) -> None:
    name, after = node.inputs[0], node.attribute("activation", ())
    by_channel = [aligned_copy(np.broadcast_to(values, low.shape(name)[1:2])) for values in (factor, summand)]
    if node.outputs[0] in low.plan.maps:
        x, y = low.map(name), low.new_map(node.outputs[0])
        rest = [Side(values, SAME, (LANES, 0, 0)) for values in by_channel]
        for n in range(y.samples):
            on_map(low, "MultiplyAdd", [whole(x, n), *rest], y, n, after)
    else:
        shape = (low.shape(name)[1], *(1,) * (len(low.shape(name)) - 2))
        sides = [(low.array(name), low.shape(name)), *((values, shape) for values in by_channel)]
        on_arrays(low, "MultiplyAdd", sides, node.outputs[0], after)
