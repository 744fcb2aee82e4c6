"""Operators that move elements: transposed, cut out, put together, looked up, interpolated."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cuda.network import instances
from groupconv_worker.cuda.network.arguments import COPY, fill_axes
from groupconv_worker.cuda.network.lowering import THREADS, CudaLowering, several
from groupconv_worker.graph.graph import Node, UnsupportedNodeError
from groupconv_worker.graph.operators.call import Call
from groupconv_worker.graph.operators.movement import rearrangement
from groupconv_worker.graph.operators.resize import coordinates, weights
from groupconv_worker.graph.strides import broadcast, dense


def copy(
    low: CudaLowering,
    shape: Sequence[int],
    x: str,
    x_steps: Sequence[int],
    y: str,
    y_steps: Sequence[int],
    first: tuple[int, int] = (0, 0),
) -> None:
    """Copy elements from positions of x to positions of y.

    Args:
        low: gets the launch.
        shape: of what is copied.
        x: a tensor in C order.
        x_steps: its elements from one position to the next along each axis of the shape.
        y: another one.
        y_steps: its elements from one position to the next.
        first: the positions of the first element.
    """
    struct = np.zeros((), COPY)
    struct["size"], (struct["from"], struct["to"]) = math.prod(shape), first
    struct["axes"] = fill_axes(struct["extent"], shape, (struct["from_step"], x_steps), (struct["to_step"], y_steps))
    instance = instances.copy(low.dtype(x).itemsize)
    x, y = low.needed(x), low.made(y)
    blocks = -(-math.prod(shape) // THREADS)
    low.kernel(instance, [x], y, lambda views: (views[x], views[y], struct), blocks=blocks)


def lower_reshape(low: CudaLowering, node: Node) -> None:
    """Reshape, Identity and their like: another name for the same elements."""
    low.alias(node.outputs[0], node.inputs[0])


def lower_transpose(low: CudaLowering, node: Node) -> None:
    """Transpose."""
    x, y = node.inputs[0], node.outputs[0]
    order = node.attribute("perm") or tuple(reversed(range(len(low.shape(x)))))
    steps = dense(low.shape(x))
    copy(low, low.shape(y), x, [steps[axis] for axis in order], y, dense(low.shape(y)))


def lower_rearrangement(low: CudaLowering, node: Node) -> None:
    """ChannelShuffle, DepthToSpace and SpaceToDepth."""
    split, order = rearrangement(node, low.shape(node.inputs[0]))
    steps, shape = dense(split), [split[axis] for axis in order]
    copy(low, shape, node.inputs[0], [steps[axis] for axis in order], node.outputs[0], dense(shape))


def lower_concat(low: CudaLowering, node: Node) -> None:
    """Concat."""
    y = node.outputs[0]
    steps = dense(low.shape(y))
    axis, first = node.attribute("axis") % len(steps), 0
    for name in node.inputs:
        shape = low.shape(name)
        copy(low, shape, name, dense(shape), y, steps, (0, first))
        first += shape[axis] * steps[axis]


def lower_split(low: CudaLowering, node: Node) -> None:
    """Split."""
    x = node.inputs[0]
    steps = dense(low.shape(x))
    axis, first = node.attribute("axis", 0) % len(steps), 0
    for name in filter(None, node.outputs):
        shape = low.shape(name)
        copy(low, shape, x, steps, name, dense(shape), (first, 0))
        first += shape[axis] * steps[axis]


def lower_slice(low: CudaLowering, node: Node) -> None:
    """Slice with constant bounds and any steps."""
    x, y = node.inputs[0], node.outputs[0]
    if any(node.inputs[1:]):
        raise UnsupportedNodeError("bounds that are no constants")
    steps, first = list(dense(low.shape(x))), 0
    starts, ends, axes, strides = (several(node, name) for name in ("starts", "ends", "axes", "steps"))
    for i, start in enumerate(starts):
        axis = axes[i] % len(steps) if axes else i
        extent, stride = low.shape(x)[axis], strides[i] if strides else 1
        chosen = range(*slice(start, ends[i], stride).indices(extent))
        first += chosen.start * steps[axis]
        steps[axis] *= stride
    copy(low, low.shape(y), x, steps, y, dense(low.shape(y)), (first, 0))


def lower_expand(low: CudaLowering, node: Node) -> None:
    """Expand."""
    x, y = node.inputs[0], node.outputs[0]
    shape = low.shape(y)
    copy(low, shape, x, broadcast(low.shape(x), shape), y, dense(shape))


def lower_tile(low: CudaLowering, node: Node) -> None:
    """Tile: an axis is one of repetitions, which does not advance, and its own."""
    x, y = node.inputs[0], node.outputs[0]
    pairs = [(out // own, own) for out, own in zip(low.shape(y), low.shape(x), strict=True)]
    shape = [extent for pair in pairs for extent in pair]
    copy(low, shape, x, [step for own in dense(low.shape(x)) for step in (0, own)], y, dense(shape))


def lower_gather(low: CudaLowering, node: Node) -> None:
    """Gather by indices of int32 or int64, constant or not."""
    x, index, y = node.inputs[0], node.inputs[1], node.outputs[0]
    shape = low.shape(x)
    axis = node.attribute("axis", 0) % len(shape)
    if str(low.dtype(index)) not in instances.INDICES:
        raise UnsupportedNodeError(f"indices of {low.dtype(index)}")
    instance = instances.gather(low.dtype(x).itemsize, low.dtype(index))
    size, chosen = math.prod(low.shape(y)), math.prod(low.shape(index))
    extents = (np.int64(size), np.int64(shape[axis]), np.int64(chosen), np.int64(math.prod(shape[axis + 1 :])))
    x, index, y = low.needed(x), low.needed(index), low.made(y)
    low.kernel(instance, [x, index], y, lambda views: (views[x], views[index], views[y], *extents))


def resample(low: CudaLowering, x: str, y: str, axis: int, taps: Array, shares: Array, fill: float = 0.0) -> None:
    """Along an axis, sums of some elements of x by their weights.

    Args:
        low: gets the launch.
        x: a tensor of float32.
        y: one that differs in one axis alone.
        axis: which.
        taps: int32 (elements of y, taps): what is summed; -1 is `fill`.
        shares: float32 of the same shape.
        fill: lies around x.
    """
    low.floats(x, y)
    shape, out = low.shape(x), low.shape(y)
    at = low.send(f"{y}/taps", np.ascontiguousarray(taps, np.int32))
    share = low.send(f"{y}/shares", np.ascontiguousarray(shares, np.float32))
    extents = (
        np.int64(math.prod(out)),
        np.int64(shape[axis]),
        np.int64(out[axis]),
        np.int64(math.prod(out[axis + 1 :])),
    )
    more = (np.int32(taps.shape[1]), np.float32(fill))
    x, y = low.needed(x), low.made(y)
    low.kernel(
        instances.RESAMPLE,
        [x, at, share],
        y,
        lambda views: (views[x], views[at], views[share], views[y], *extents, *more),
    )


def lower_pad(low: CudaLowering, node: Node) -> None:
    """Pad in every mode, axis by axis; negative padding cuts."""
    if any(node.inputs[1:]):
        raise UnsupportedNodeError("padding that is no constant")
    rank = len(low.shape(node.inputs[0]))
    pads, value, mode = several(node, "pads"), node.attribute("value", 0.0), node.attribute("mode", "constant")
    axes = [axis % rank for axis in several(node, "axes")] or list(range(rank))
    changes = []
    for i, axis in enumerate(axes):
        before, after = pads[i], pads[i + len(axes)]
        if before or after:
            extent = low.shape(node.inputs[0])[axis]
            inside = np.arange(max(0, -before), extent - max(0, -after))
            around = (max(0, before), max(0, after))
            indices = np.pad(inside, around, mode, **({"constant_values": -1} if mode == "constant" else {}))
            changes.append((axis, indices[:, None], np.ones((len(indices), 1))))
    _along_axes(low, node, changes, float(value))


def lower_resize(low: CudaLowering, node: Node) -> None:
    """Resize in every mode, axis by axis, by the reference's weights."""
    x, out = node.inputs[0], low.shape(node.outputs[0])
    shape, rank = low.shape(x), len(out)
    if any(node.inputs[1:]) or node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise UnsupportedNodeError("sizes that are no constants, or a part of the input alone")
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedNodeError("a kept aspect ratio")
    call, scales = Call(node, [], [low.tensors[node.outputs[0]]]), several(node, "scales")
    axes = [axis % rank for axis in several(node, "axes")] or list(range(rank))
    changes = []
    for i, axis in enumerate(axes):
        scale = float(scales[i]) if scales else out[axis] / shape[axis]
        at = coordinates(call, axis, shape[axis], out[axis], scale, (0.0, 1.0))
        taps, shares = sparse(weights(call, at, shape[axis], scale))
        if shape[axis] != out[axis] or not np.array_equal(taps[:, 0], np.arange(out[axis])) or taps.shape[1] > 1:
            changes.append((axis, taps, shares))
    _along_axes(low, node, changes, 0.0)


def sparse(matrix: Array) -> tuple[Array, Array]:
    """The elements of each row of a matrix that are not 0: their columns and values, padded with zeros.

    Example:
        >>> sparse(np.array([[0, 0.5, 0.5], [1, 0, 0]]))
        (array([[1, 2], [0, 1]]), array([[0.5, 0.5], [1. , 0. ]]))
    """
    count = max(1, int(np.count_nonzero(matrix, axis=1).max(initial=1)))
    columns = np.argsort(matrix == 0, axis=1, kind="stable")[:, :count]
    return columns, np.take_along_axis(matrix, columns, 1)


def _along_axes(low: CudaLowering, node: Node, changes: Sequence[tuple[int, Array, Array]], fill: float) -> None:
    """One resampling after another; the last one makes the output."""
    x: Any = node.inputs[0]
    if not changes:
        low.alias(node.outputs[0], x)
    for i, (axis, taps, shares) in enumerate(changes):
        shape = [*low.shape(x)]
        shape[axis] = len(taps)
        y = node.outputs[0] if i == len(changes) - 1 else low.between(shape)
        resample(low, x, y, axis, taps, shares, fill)
        x = y
