"""Reductions, softmax and normalizations: what is computed of whole rows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cuda.network.arguments import ROWS, fill_axes
from groupconv_worker.cuda.network.elements import ElementOp, activation, extend
from groupconv_worker.cuda.network.instances import NORMALIZE, REDUCE, SOFTMAX, WHERE_LARGEST
from groupconv_worker.cuda.network.lowering import THREADS, CudaLowering, Views, several
from groupconv_worker.graph.graph import Node, UnsupportedNodeError
from groupconv_worker.graph.strides import dense

REDUCTIONS = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum",
)  # fmt: skip
"""`Reduction` of kernels/rows.cu, in its order."""
GLOBAL = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}
WARP = 32


def threads_of(count: int) -> int:
    """Threads for a row of so many elements: a power of two, a warp at least.

    Example:
        >>> threads_of(49), threads_of(1000)
        (64, 256)
    """
    return min(THREADS, max(WARP, 1 << (count - 1).bit_length()))


def rows_of(shape: Sequence[int], axes: Sequence[int]) -> Array:
    """The `ROWS` struct of a tensor in C order: rows along `axes`, one for each position on the others."""
    steps, struct = dense(shape), np.zeros((), ROWS)
    others = [axis for axis in range(len(shape)) if axis not in axes]
    for name, some in (("outer", others), ("inner", axes)):
        strides = struct[f"{name}_step"], [steps[axis] for axis in some]
        struct[f"{name}_axes"] = fill_axes(struct[name], [shape[axis] for axis in some], strides)
    struct["rows"] = math.prod(shape[axis] for axis in others)
    struct["count"] = math.prod(shape[axis] for axis in axes)
    return struct


def by_rows(
    low: CudaLowering,
    instance: tuple[str, str],
    reads: Sequence[str],
    y: str,
    extents: tuple[int, int],
    arguments: Callable[[Views], tuple[Any, ...]],
) -> None:
    """One launch of a kernel whose blocks take a row each; the extents are rows, and elements of a row."""
    rows, count = extents
    threads = threads_of(count)
    low.kernel(instance, reads, y, arguments, blocks=rows, threads=threads, shared=4 * threads)


def lower_reduction(low: CudaLowering, node: Node) -> None:
    """Any of `REDUCTIONS`, and the global pools."""
    x, y = node.inputs[0], node.outputs[0]
    low.floats(x)
    rank = len(low.shape(x))
    if node.op in GLOBAL:
        axes, kind = list(range(2, rank)), GLOBAL[node.op]
    else:
        if len(node.inputs) > 1 and node.inputs[1]:
            raise UnsupportedNodeError("axes that are no constants")
        axes, kind = sorted(axis % rank for axis in several(node, "axes")), node.op
        if not axes and node.attribute("noop_with_empty_axes", 0):
            raise UnsupportedNodeError("no axes")
    struct = rows_of(low.shape(x), axes or range(rank))
    x, y, number = low.needed(x), low.made(y), np.int32(REDUCTIONS.index(kind))
    by_rows(
        low,
        REDUCE,
        [x],
        y,
        (int(struct["rows"]), int(struct["count"])),
        lambda views: (views[x], views[y], struct, number),
    )


def lower_softmax(low: CudaLowering, node: Node) -> None:
    """Softmax and LogSoftmax over any axis."""
    x, y = low.needed(node.inputs[0]), low.made(node.outputs[0])
    low.floats(x)
    shape = low.shape(x)
    struct, logarithm = rows_of(shape, [node.attribute("axis", -1) % len(shape)]), np.int32(node.op == "LogSoftmax")
    by_rows(
        low,
        SOFTMAX,
        [x],
        y,
        (int(struct["rows"]), int(struct["count"])),
        lambda views: (views[x], views[y], struct, logarithm),
    )


def lower_where_largest(low: CudaLowering, node: Node) -> None:
    """ArgMax and ArgMin of float32."""
    x, y = low.needed(node.inputs[0]), low.made(node.outputs[0])
    low.floats(x)
    struct = rows_of(low.shape(x), [node.attribute("axis", 0) % len(low.shape(x))])
    flags = (np.int32(node.op == "ArgMin"), np.int32(node.attribute("select_last_index", 0)))
    low.kernel(WHERE_LARGEST, [x], y, lambda views: (views[x], views[y], struct, *flags))


def lower_normalization(low: CudaLowering, node: Node) -> None:
    """InstanceNormalization and GroupNormalization, whose groups are one or more channels, and LayerNormalization."""
    low.floats(*node.inputs[:1])
    shape = low.shape(node.inputs[0])
    if node.op == "LayerNormalization":
        if any(node.outputs[1:]):
            raise UnsupportedNodeError("the mean and the deviation as outputs")
        axis = node.attribute("axis", -1) % len(shape)
        rows, channels, plane = math.prod(shape[:axis]), math.prod(shape[axis:]), 1
    else:
        groups = node.attribute("num_groups", shape[1])
        rows, channels, plane = shape[0] * groups, shape[1], math.prod(shape[2:])
    scale = _by_channel(low, node, 1, channels, 1.0)
    shift = _by_channel(low, node, 2, channels, 0.0)
    x, y = low.needed(node.inputs[0]), low.made(node.outputs[0])
    count, epsilon = math.prod(shape) // rows, np.float32(node.attribute("epsilon", 1e-5))
    extents = np.int64(count), np.int64(plane), np.int64(channels), epsilon

    def arguments(views: Views) -> tuple[Any, ...]:
        return views[x], views[scale], views[shift], views[y], *extents

    by_rows(low, NORMALIZE, [x, scale, shift], y, (rows, count), arguments)


def _by_channel(low: CudaLowering, node: Node, position: int, channels: int, default: float) -> str:
    """A scale or shift with an element for each channel; one for each group is repeated."""
    name = node.inputs[position] if position < len(node.inputs) else ""
    array = low.constant(name) if name else np.full(channels, default, np.float32)
    if array is None:
        raise UnsupportedNodeError("a scale or shift that is no constant")
    repeated = np.repeat(array.reshape(-1), channels // max(1, array.size)).astype(np.float32)
    if repeated.size != channels:
        raise UnsupportedNodeError(f"a scale or shift of {list(array.shape)} for {channels} channels")
    return low.send(f"{node.outputs[0]}/{position}", repeated)


def lower_affine(low: CudaLowering, node: Node) -> None:
    """AffineChannel: a scale and a shift for each channel, then an activation."""
    scale, shift = _constants(low, node.inputs[1:3])
    _scaled(low, node, scale, shift)


def lower_batch_normalization(low: CudaLowering, node: Node) -> None:
    """BatchNormalization with its statistics, which the canonical form leaves only where it cannot fold it."""
    if any(node.outputs[1:]):
        raise UnsupportedNodeError("statistics as outputs")
    scale, shift, mean, variance = _constants(low, node.inputs[1:5])
    factor = scale / np.sqrt(variance + node.attribute("epsilon", 1e-5))
    _scaled(low, node, factor, shift - mean * factor)


def _constants(low: CudaLowering, names: Sequence[str]) -> list[Any]:
    arrays = [low.constant(name) for name in names]
    if any(array is None for array in arrays):
        raise UnsupportedNodeError("a scale or shift that is no constant")
    return [array.astype(np.float64) for array in arrays if array is not None]


def _scaled(low: CudaLowering, node: Node, scale: Array, shift: Array) -> None:
    x, y = node.inputs[0], node.outputs[0]
    low.floats(x)
    shape = (-1, *(1,) * (len(low.shape(x)) - 2))
    names = [
        low.send(f"{y}/{what}", array.reshape(shape).astype(np.float32))
        for what, array in (("scale", scale), ("shift", shift))
    ]
    extend(low, x, [ElementOp("Mul", names[0]), ElementOp("Add", names[1]), *activation(node)], y)
