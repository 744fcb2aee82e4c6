"""Lowering of operators on maps: pools, and what changes channels, rows and columns."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.network.kernels import movement, rows, windows
from groupconv_worker.cpu.network.lowering import CpuLowering, Map
from groupconv_worker.cpu.network.movement import lower_pad_of_array, moved_last
from groupconv_worker.cpu.network.planning import NO_MARGIN
from groupconv_worker.graph.graph import Node, UnsupportedNodeError
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.operators.call import Call
from groupconv_worker.graph.operators.resize import coordinates, weights


def lower_pool(low: CpuLowering, node: Node) -> None:
    """MaxPool, AveragePool and the global pools, of maps."""
    if len(node.outputs) > 1 and any(node.outputs[1:]):
        raise UnsupportedNodeError("indices")
    kind = windows.LARGEST if "Max" in node.op else windows.MEAN
    if node.op.startswith("Global"):
        kernel, strides, dilations, pads = low.shape(node.inputs[0])[2:], (1, 1), (1, 1), NO_MARGIN
    else:
        kernel, strides, dilations, pads = (
            node.attributes[name] for name in ("kernel_shape", "strides", "dilations", "pads")
        )
    padded = int(bool(node.attribute("count_include_pad", 0)))
    if len(kernel) != 2:
        raise UnsupportedNodeError(f"{len(kernel)} axes")
    _pool(low, node, kind, (kernel, strides, dilations, pads), padded)


def _pool(low: CpuLowering, node: Node, kind: int, window: Sequence[Any], padded: int) -> None:
    pool_maps(low, low.map(node.inputs[0]), low.new_map(node.outputs[0]), kind, window, padded)


def pool_maps(low: CpuLowering, x: Map, y: Map, kind: int, window: Sequence[Any], padded: int) -> None:
    """A pool of each sample: its kind, (kernel, strides, dilations, pads), and whether padding counts for a mean."""
    kernel, strides, dilations, pads = window
    extents = (x.layout.rows, x.layout.columns, y.layout.rows, y.layout.columns)
    words = (*extents, *kernel, *strides, *dilations, *pads, padded, x.plane, x.row, y.plane, y.row)
    for n in range(y.samples):
        function = low.assembly.kernel(windows.pool)
        low.assembly.add(function, (x.cell(n), y.cell(n), kind, *words), y.layout.blocks * y.layout.rows)


def lower_mean(low: CpuLowering, node: Node) -> None:
    """ReduceMean and ReduceMax over rows and columns of a map; over any axes of an array."""
    x = node.inputs[0]
    shape = low.shape(x)
    axes = node.attribute("axes")
    if not shape or any(node.inputs[1:]) or (not axes and node.attribute("noop_with_empty_axes", 0)):
        raise UnsupportedNodeError("no axes, or axes that are no constants")
    axes = tuple(sorted(a % len(shape) for a in axes)) if axes else tuple(range(len(shape)))
    keeps = node.attribute("keepdims", 1)
    kinds = {"ReduceMean": rows.MEAN, "ReduceMax": rows.MAX, "ReduceSum": rows.SUM}
    if low.has_map(x) and axes == (2, 3) and keeps and node.op != "ReduceSum":
        whole = (shape[2:], (1, 1), (1, 1), (0, 0, 0, 0))
        _pool(low, node, windows.MEAN if node.op == "ReduceMean" else windows.LARGEST, whole, 0)
        return
    if low.graph.tensors[x].dtype != np.float32:
        raise UnsupportedNodeError("elements that are not float32")
    count = math.prod(shape[axis] for axis in axes)
    parameters = np.zeros(1, np.float32)
    words = (moved_last(low, x, axes), low.new_array(node.outputs[0]), kinds[node.op], count, parameters)
    low.assembly.add(low.assembly.kernel(rows.rows), words, math.prod(shape) // max(1, count))


def lower_neighbors(low: CpuLowering, node: Node) -> None:
    """LRN."""
    size, alpha, beta, bias = (
        node.attribute(name, default) for name, default in (("size", 1), ("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    if abs(beta - 0.75) > 1e-6:
        raise UnsupportedNodeError(f"beta {beta} instead of 0.75")
    x = low.map(node.inputs[0])
    y = low.new_map(node.outputs[0])
    below, above = (size - 1) // 2, size // 2
    room = LANES * (-(-below // LANES)) + (x.layout.blocks + -(-above // LANES) + 1) * LANES
    parameters = np.array([alpha / size, bias], np.float32)
    C, H, W = x.layout.channels, x.layout.rows, x.layout.columns
    for n in range(y.samples):
        scratch = low.assembly.block(4 * H * room)
        words = (x.cell(n), y.cell(n), scratch, parameters, C, below, above, H, W, room, x.plane, x.row, y.plane, y.row)
        low.assembly.add(low.assembly.kernel(rows.normalize_neighbors), words, H)


def pick(low: CpuLowering, x: Map, y: Map, channels: Sequence[int], first: int = 0) -> None:
    """Copy channels of x to those of y from `first` on, in this order."""
    sources = np.full(y.layout.blocks * LANES, -1, np.int64)
    begins = np.array(channels, np.int64)
    sources[first : first + len(begins)] = begins // LANES * x.plane + begins % LANES
    blocks = sources.reshape(-1, LANES)
    last = first + len(begins)
    whole = np.full(len(blocks), -1, np.int64)
    for block, lanes in enumerate(blocks):
        count = min(LANES, y.layout.channels - block * LANES)
        start = block * LANES
        within = start >= first and start + count <= last
        if within and lanes[0] % LANES == 0 and (lanes[:count] - lanes[0] == np.arange(count)).all():
            whole[block] = lanes[0]
    function = low.assembly.kernel(movement.pick_channels)
    for n in range(y.samples):
        words = (x.cell(n), y.cell(n), sources, whole, y.layout.rows, y.layout.columns, x.row, y.plane, y.row)
        low.assembly.add(function, words, y.layout.blocks * y.layout.rows)


def region(x: Map, box: Box) -> Map:
    """All channels of a part of a map's samples, rows and columns; what lies around it is its margin."""
    samples, _, rows, columns = box.ranges
    layout = x.layout.within(rows.start, rows.stop, columns.start, columns.stop)
    return Map(x.start.plus(samples.start * x.step), layout, x.step, samples.stop - samples.start)


def cut_map(low: CpuLowering, node: Node, box: Box) -> None:
    """A copy of a box of a map."""
    x, y, channels = low.map(node.inputs[0]), low.new_map(node.outputs[0]), box.ranges[1]
    pick(low, region(x, box), y, range(channels.start, channels.stop))


def lower_shuffle(low: CpuLowering, node: Node) -> None:
    """ChannelShuffle."""
    x = low.map(node.inputs[0])
    y = low.new_map(node.outputs[0])
    C, groups = x.layout.channels, node.attribute("groups")
    pick(low, x, y, np.arange(C).reshape(groups, C // groups).T.reshape(-1).tolist())


def concatenate_maps(low: CpuLowering, node: Node) -> None:
    """Concat along channels: what does not lie in its place yet is copied there."""
    y = low.new_map(node.outputs[0])
    first = 0
    for name in node.inputs:
        x = low.map(name)
        if low.plan.roots.get(name, ("",))[0] != node.outputs[0]:
            pick(low, x, y, range(x.layout.channels), first)
        first += x.layout.channels


def lower_resize(low: CpuLowering, node: Node) -> None:
    """Resize of rows and columns whose elements come from at most two of the input's."""
    x = low.map(node.inputs[0])
    y = low.new_map(node.outputs[0])
    if low.shape(node.inputs[0])[:2] != low.shape(node.outputs[0])[:2]:
        raise UnsupportedNodeError("other channels")
    resize_maps(low, x, y, [axis_matrix(low, node, axis) for axis in (2, 3)])


def resize_maps(low: CpuLowering, x: Map, y: Map, matrices: Sequence[Any]) -> None:
    """Rows and columns of each sample by the matrices of both axes."""
    tables, shares = zip(*map(two_of_each, matrices), strict=True)
    words = (y.layout.rows, y.layout.columns, *tables, *shares, x.plane, x.row, y.plane, y.row)
    for n in range(y.samples):
        tasks = y.layout.blocks * y.layout.rows
        low.assembly.add(low.assembly.kernel(movement.resize), (x.cell(n), y.cell(n), *words), tasks)


def axis_matrix(low: CpuLowering, node: Node, axis: int) -> Any:
    """The shares (output, input) of an axis, by the operator's definition."""
    extent, length = low.shape(node.inputs[0])[axis], low.shape(node.outputs[0])[axis]
    call = Call(node, [None] * 4, [low.graph.tensors[node.outputs[0]]])
    if any(node.inputs[1:]) or node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedNodeError("scales that are no constants, or an aspect ratio to keep")
    if node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise UnsupportedNodeError("a crop")
    rank = len(low.shape(node.inputs[0]))
    axes = [a % rank for a in node.attribute("axes") or range(rank)]
    scales = node.attribute("scales") or ()
    if axis not in axes:
        return np.eye(extent)
    scale = float(scales[axes.index(axis)]) if len(scales) else length / extent
    at = coordinates(call, axis, extent, length, scale, (0.0, 1.0))
    return weights(call, at, extent, scale)


def two_of_each(matrix: Any) -> tuple[Any, Any]:
    """For each output the two inputs it takes, and their shares."""
    if (np.count_nonzero(matrix, axis=1) > 2).any():
        raise UnsupportedNodeError("more than two neighbors")
    order = np.argsort(-np.abs(matrix), axis=1, kind="stable")[:, :2]
    if matrix.shape[1] == 1:
        order = np.repeat(order, 2, axis=1)
    shares = np.take_along_axis(matrix, order, 1)
    if matrix.shape[1] == 1:
        shares[:, 1] = 0
    return order.reshape(-1).astype(np.int64), shares.reshape(-1).astype(np.float32)


def lower_pad(low: CpuLowering, node: Node) -> None:
    """Pad: with zeros around a map, a mean over one cell, which is zero outside; else on an array."""
    rank, pads = len(low.shape(node.inputs[0])), node.attribute("pads")
    axes = [axis % rank for axis in node.attribute("axes") or range(rank)]
    value = node.attribute("value") or 0
    plain = node.attribute("mode", "constant") == "constant" and not any(node.inputs[1:])
    if rank != 4 or pads is None or not plain or value != 0 or min(pads) < 0:
        lower_pad_of_array(low, node)
        return
    around = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    if any(around.get(axis, (0, 0)) != (0, 0) for axis in (0, 1)) or not low.has_map(node.inputs[0]):
        lower_pad_of_array(low, node)
        return
    (top, bottom), (left, right) = (around.get(axis, (0, 0)) for axis in (2, 3))
    _pool(low, node, windows.MEAN, ((1, 1), (1, 1), (1, 1), (top, left, bottom, right)), 1)
