"""Lowering of operators on maps: convolutions, pools, and what changes channels, rows and columns."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.cpu.algorithms.plane import phases
from groupconv_worker.cpu.blocked.convolution import convolution
from groupconv_worker.cpu.blocked.epilogue import FUSED, Epilogue
from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.blocked.layout import Plain
from groupconv_worker.cpu.blocked.lowered import beyond
from groupconv_worker.cpu.kernels.forms import NotCompiledError
from groupconv_worker.cpu.network.kernels import movement, rows, windows
from groupconv_worker.cpu.network.lowering import Lowering, Map, UnsupportedNodeError, attribute, replace_offset
from groupconv_worker.cpu.network.movement import lower_pad_of_array, moved_last
from groupconv_worker.cpu.network.planning import NO_MARGIN, Margin, widest
from groupconv_worker.cpu.network.pointwise import apply_in_place
from groupconv_worker.cpu.program import Address
from groupconv_worker.graph.convolution import geometry as convolution_geometry
from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.operators.call import Call
from groupconv_worker.graph.operators.resize import coordinates, weights

STEM = 4
"""Channels up to which a convolution reads the network's input as it lies."""


def geometry(graph: Graph, node: Node) -> Geometry:
    """The geometry of a convolution.

    Raises:
        UnsupportedNodeError: it has more than two axes, or another fault.
    """
    x = graph.tensors[node.inputs[0]]
    rank = len(x.shape) - 2
    if rank != 2 or x.dtype != np.float32 or node.inputs[1] not in graph.constants:
        raise UnsupportedNodeError(f"{x.dtype} over {rank} axes, or weights that are no constants")
    return convolution_geometry(graph, node)


def margin(graph: Graph, node: Node) -> Margin:
    """What a convolution reads around its input."""
    try:
        g = geometry(graph, node)
    except (UnsupportedNodeError, ValueError):
        return NO_MARGIN
    found = NO_MARGIN
    for phase in phases(g):
        (top, bottom), (left, right) = (beyond(phase.plane, axis) for axis in (0, 1))
        found = widest(found, (top, left, bottom, right))
    return found


def lower_convolution(low: Lowering, node: Node) -> None:
    """Conv and ConvTranspose, with bias, residual and activation."""
    g, name = geometry(low.graph, node), node.inputs[0]
    bias = low.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(node.inputs) > 2 and node.inputs[2] and bias is None:
        raise UnsupportedNodeError("a bias that is no constant")
    residual = low.map(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else None
    raw = not low.has_map(name) and g.in_channels <= STEM and g.groups == 1 and not g.transposed
    source = None if raw else low.map(name)
    y = low.new_map(node.outputs[0])
    after = attribute(node, "activation", ())
    fused = not after or after[0] in FUSED
    epilogue = Epilogue(after if fused else (), None if residual is None else residual.layout)
    weight = low.constant(node.inputs[1])
    assert weight is not None
    layout = Plain(g.in_channels, *g.input) if source is None else source.layout
    try:
        use = False if node.outputs[0] in low.direct else None
        made = convolution(g, layout, y.layout, weight, bias, epilogue, use_winograd=use)
    except NotCompiledError as missing:
        if missing.form is None:
            raise
        low.assembly.missing[missing.form] = None
        return
    except ValueError as error:
        raise UnsupportedNodeError(str(error)) from None
    for n in range(y.samples):
        scratch = low.assembly.block(made.scratch)
        x = _raw(low, name, n) if source is None else source.sample(n)
        added = x if residual is None else residual.sample(n)
        low.assembly.extend(made.stages, (scratch, scratch, x, y.sample(n), added))
    if not fused:
        apply_in_place(low, y, after)


def _raw(low: Lowering, name: str, sample: int) -> Address:
    """Where a sample of a tensor in C order begins."""
    found = low.array(name)
    if not isinstance(found, Address):
        raise UnsupportedNodeError("an input that is a constant")
    return replace_offset(found, 4 * sample * math.prod(low.shape(name)[1:]))


def lower_pool(low: Lowering, node: Node) -> None:
    """MaxPool, AveragePool and the global pools."""
    if len(node.outputs) > 1 and any(node.outputs[1:]):
        raise UnsupportedNodeError("indices")
    kind = windows.LARGEST if "Max" in node.op else windows.MEAN
    if node.op.startswith("Global"):
        kernel, strides, dilations, pads = low.shape(node.inputs[0])[2:], (1, 1), (1, 1), NO_MARGIN
    else:
        kernel, strides, dilations, pads = (
            node.attributes[name] for name in ("kernel_shape", "strides", "dilations", "pads")
        )
    padded = int(bool(attribute(node, "count_include_pad", 0)))
    _pool(low, node, kind, (kernel, strides, dilations, pads), padded)


def _pool(low: Lowering, node: Node, kind: int, window: Sequence[Any], padded: int) -> None:
    kernel, strides, dilations, pads = window
    if len(kernel) != 2:
        raise UnsupportedNodeError(f"{len(kernel)} axes")
    x = low.map(node.inputs[0])
    y = low.new_map(node.outputs[0])
    extents = (x.layout.rows, x.layout.columns, y.layout.rows, y.layout.columns)
    words = (*extents, *kernel, *strides, *dilations, *pads, padded, x.plane, x.row, y.plane, y.row)
    for n in range(y.samples):
        function = low.assembly.kernel(windows.pool)
        low.assembly.add(function, (x.cell(n), y.cell(n), kind, *words), y.layout.blocks * y.layout.rows)


def lower_mean(low: Lowering, node: Node) -> None:
    """ReduceMean and ReduceMax over rows and columns of a map; over any axes of an array."""
    x = node.inputs[0]
    shape = low.shape(x)
    axes = attribute(node, "axes")
    if not shape or any(node.inputs[1:]) or (not axes and attribute(node, "noop_with_empty_axes", 0)):
        raise UnsupportedNodeError("no axes, or axes that are no constants")
    axes = tuple(sorted(a % len(shape) for a in axes)) if axes else tuple(range(len(shape)))
    keeps = attribute(node, "keepdims", 1)
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


def lower_neighbors(low: Lowering, node: Node) -> None:
    """LRN."""
    size, alpha, beta, bias = (
        attribute(node, name, default)
        for name, default in (("size", 1), ("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
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


def pick(low: Lowering, x: Map, y: Map, channels: Sequence[int], first: int = 0) -> None:
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
    return Map(replace_offset(x.start, samples.start * x.step), layout, x.step, samples.stop - samples.start)


def cut_map(low: Lowering, node: Node, box: Box) -> None:
    """A copy of a box of a map."""
    x, y, channels = low.map(node.inputs[0]), low.new_map(node.outputs[0]), box.ranges[1]
    pick(low, region(x, box), y, range(channels.start, channels.stop))


def lower_shuffle(low: Lowering, node: Node) -> None:
    """ChannelShuffle."""
    x = low.map(node.inputs[0])
    y = low.new_map(node.outputs[0])
    C, groups = x.layout.channels, attribute(node, "groups")
    pick(low, x, y, np.arange(C).reshape(groups, C // groups).T.reshape(-1).tolist())


def concatenate_maps(low: Lowering, node: Node) -> None:
    """Concat along channels: what does not lie in its place yet is copied there."""
    y = low.new_map(node.outputs[0])
    first = 0
    for name in node.inputs:
        x = low.map(name)
        if low.plan.roots.get(name, ("",))[0] != node.outputs[0]:
            pick(low, x, y, range(x.layout.channels), first)
        first += x.layout.channels


def lower_resize(low: Lowering, node: Node) -> None:
    """Resize of rows and columns whose elements come from at most two of the input's."""
    x = low.map(node.inputs[0])
    y = low.new_map(node.outputs[0])
    if low.shape(node.inputs[0])[:2] != low.shape(node.outputs[0])[:2]:
        raise UnsupportedNodeError("other channels")
    tables, shares = zip(*(_two(axis_matrix(low, node, axis)) for axis in (2, 3)), strict=True)
    words = (y.layout.rows, y.layout.columns, *tables, *shares, x.plane, x.row, y.plane, y.row)
    for n in range(y.samples):
        tasks = y.layout.blocks * y.layout.rows
        low.assembly.add(low.assembly.kernel(movement.resize), (x.cell(n), y.cell(n), *words), tasks)


def axis_matrix(low: Lowering, node: Node, axis: int) -> Any:
    """The shares (output, input) of an axis, by the operator's definition."""
    extent, length = low.shape(node.inputs[0])[axis], low.shape(node.outputs[0])[axis]
    call = Call(node, [None] * 4, [low.graph.tensors[node.outputs[0]]])
    if any(node.inputs[1:]) or attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedNodeError("scales that are no constants, or an aspect ratio to keep")
    if attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        raise UnsupportedNodeError("a crop")
    axes = [a % 4 for a in attribute(node, "axes") or range(4)]
    scales = attribute(node, "scales") or ()
    if axis not in axes:
        return np.eye(extent)
    scale = float(scales[axes.index(axis)]) if len(scales) else length / extent
    at = coordinates(call, axis, extent, length, scale, (0.0, 1.0))
    return weights(call, at, extent, scale)


def _two(matrix: Any) -> tuple[Any, Any]:
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


def lower_pad(low: Lowering, node: Node) -> None:
    """Pad: with zeros around a map, a mean over one cell, which is zero outside; else on an array."""
    rank, pads = len(low.shape(node.inputs[0])), attribute(node, "pads")
    axes = [axis % rank for axis in attribute(node, "axes") or range(rank)]
    value = attribute(node, "value") or 0
    plain = attribute(node, "mode", "constant") == "constant" and not any(node.inputs[1:])
    if rank != 4 or pads is None or not plain or value != 0 or min(pads) < 0:
        lower_pad_of_array(low, node)
        return
    around = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    if any(around.get(axis, (0, 0)) != (0, 0) for axis in (0, 1)) or not low.has_map(node.inputs[0]):
        lower_pad_of_array(low, node)
        return
    (top, bottom), (left, right) = (around.get(axis, (0, 0)) for axis in (2, 3))
    _pool(low, node, windows.MEAN, ((1, 1), (1, 1), (1, 1), (top, left, bottom, right)), 1)
