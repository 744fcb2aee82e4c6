"""Local nodes of operators that read a neighborhood: their padding is only at the true edges of the map."""

from dataclasses import replace
from typing import Any

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.box import Box, Range
from groupconv_worker.graph.needed.reads import Axes, Read, shape_of
from groupconv_worker.graph.needed.table import reads
from groupconv_worker.graph.partition.local import LocalNode, inside, read_boxes

FIRST = 2
"""The first axis of space."""


def local_pool(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """MaxPool, AveragePool, LpPool."""
    if sum(map(bool, node.outputs)) > 1:  # positions count through the whole map
        wanted = Box.whole(shape_of(graph, node.outputs[0]))
    x, y, attributes = window(node, graph, wanted)
    return LocalNode(replace(node, attributes=attributes), (x,), tuple(y if name else None for name in node.outputs))


def local_convolution(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """Conv: whole groups, or some filters of one."""
    x, y, attributes = window(node, graph, wanted)
    filters, channels, group = _groups(node, graph, wanted.ranges[1], shape_of(graph, node.outputs[0])[1])
    y, x = y.along(1, filters), x.along(1, channels)
    weight = Box.whole(shape_of(graph, node.inputs[1])).along(0, filters)
    return _convolution(replace(node, attributes={**attributes, "group": group}), x, weight, y)


def local_transposed(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """ConvTranspose. Its padding cuts what its windows reach beyond the part."""
    shape, y = shape_of(graph, node.inputs[0]), wanted
    x, attributes, n = Box.whole(shape), dict(node.attributes), len(shape) - FIRST
    pads, extra = list(attributes["pads"]), list(attributes.get("output_padding") or (0,) * n)
    rules: Axes = reads(node, graph)[0] or ()
    for i, axis in enumerate(range(FIRST, len(shape))):
        stride, dilation, taps = attributes["strides"][i], attributes["dilations"][i], attributes["kernel_shape"][i]
        whole, read = Range(0, shape_of(graph, node.outputs[0])[axis]), rules[axis]
        if wanted.ranges[axis] == whole or read is None:
            y = y.along(axis, whole)
            continue
        first = wanted.ranges[axis].start + pads[i]  # in the output without padding
        last = wanted.ranges[axis].stop + pads[i]
        reach, met = (taps - 1) * dilation, read(*wanted.ranges[axis])
        start = max(0, min(met.start, first // stride))
        stop = min(shape[axis], max(met.stop, start + 1))
        before, after = first - start * stride, (stop - 1) * stride + reach + 1 - last
        if start >= stop or before < 0 or after < -extra[i]:
            y = y.along(axis, whole)
            continue
        x = x.along(axis, Range(start, stop))
        pads[i], pads[n + i], extra[i] = before, max(after, 0), max(-after, 0)
    attributes |= {"pads": tuple(pads), "output_padding": tuple(extra)}
    filters, channels, group = _groups(node, graph, wanted.ranges[1], shape_of(graph, node.outputs[0])[1])
    weight = Box.whole(shape_of(graph, node.inputs[1])).along(0, channels)
    if group == 1:  # of all groups' filters each weight has those of one
        size = weight.ranges[1].stop
        start = filters.start % size
        weight = weight.along(1, Range(start, start + filters.stop - filters.start))
    y, x = y.along(1, filters), x.along(0, y.ranges[0]).along(1, channels)
    return _convolution(replace(node, attributes={**attributes, "group": group}), x, weight, y)


def local_slice(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """Slice: what it reads begins where its part of the output does."""
    rules = reads(node, graph)
    axes_of_x = rules[0] or ()
    starts, ends = (list(node.attributes.get(name) or ()) for name in ("starts", "ends"))
    y = wanted
    whole = Box.whole(shape_of(graph, node.outputs[0]))
    for axis, read in enumerate(axes_of_x):
        y = y if read is not None else y.along(axis, whole.ranges[axis])
    boxes = read_boxes(node, graph, rules, y)
    axes = node.attributes.get("axes") or range(len(starts))
    for i, axis in enumerate(axis % len(y.ranges) for axis in axes):
        if axes_of_x[axis] is not None and boxes[0] is not None:
            starts[i], ends[i] = 0, boxes[0].shape[axis]
    attributes = {**node.attributes, "starts": tuple(starts), "ends": tuple(ends)} if starts else node.attributes
    return LocalNode(replace(node, attributes=attributes), boxes, (y,))


def local_pad(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """Pad: only where the part touches an edge."""
    shape, whole = shape_of(graph, node.inputs[0]), Box.whole(shape_of(graph, node.outputs[0]))
    rules: Axes = reads(node, graph)[0] or ()
    x, y, pads = Box.whole(shape), wanted, node.attributes.get("pads")
    local_pads = None if pads is None else list(pads)
    axes = list(node.attributes.get("axes") or range(len(shape)))
    for axis, read in enumerate(rules):
        r = wanted.ranges[axis]
        part = inside(read, r, shape[axis]) if r != whole.ranges[axis] else None
        places = [i for i, padded in enumerate(axes) if padded % len(shape) == axis]
        if part is None or local_pads is None or any(min(local_pads[i], local_pads[i + len(axes)]) < 0 for i in places):
            y = y.along(axis, whole.ranges[axis])
            continue
        x = x.along(axis, part[0])
        for i in places:
            before, after = local_pads[i], local_pads[i + len(axes)]
            if node.attributes.get("mode", "constant") == "constant":
                local_pads[i], local_pads[i + len(axes)] = part[1], part[2]
                continue
            local_pads[i] = before if part[0].start == 0 else 0
            local_pads[i + len(axes)] = after if part[0].stop == shape[axis] else 0
            start = 0 if part[0].start == 0 else part[0].start + before
            y = y.along(axis, Range(start, part[0].stop + before + local_pads[i + len(axes)]))
    attributes = node.attributes if local_pads is None else {**node.attributes, "pads": tuple(local_pads)}
    others = tuple(Box.whole(shape_of(graph, name)) if name else None for name in node.inputs[1:])
    return LocalNode(replace(node, attributes=attributes), (x, *others), (y,))


def local_resize(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """Resize: the part that is read begins where an element of the output has the coordinate of the map's first."""
    shape, whole = shape_of(graph, node.inputs[0]), Box.whole(shape_of(graph, node.outputs[0]))
    x, y = Box.whole(shape), wanted
    for axis, read in enumerate(reads(node, graph)[0] or ()):
        r, full = wanted.ranges[axis], whole.ranges[axis]
        if read is not None and read == Read(axis):
            x = x.along(axis, r)
            continue
        part = inside(read, r, shape[axis]) if r != full else None
        aligned = None if part is None or read is None else _aligned(node, read, r, shape[axis], full.stop)
        if aligned is None:
            y = y.along(axis, full)
        else:
            x, y = x.along(axis, aligned[0]), y.along(axis, aligned[1])
    attributes: dict[str, Any] = dict(node.attributes)
    if attributes.get("sizes"):
        axes = attributes.get("axes") or range(len(shape))
        attributes["sizes"] = tuple(y.shape[axis % len(shape)] for axis in axes)
    others = tuple(Box.whole(shape_of(graph, name)) if name else None for name in node.inputs[1:])
    return LocalNode(replace(node, attributes=attributes), (x, *others), (y,))


def window(node: Node, graph: Graph, wanted: Box) -> tuple[Box, Box, dict[str, Any]]:
    """The boxes that a window operator reads and makes, and its attributes; it reads the channels that it makes."""
    shape, whole = shape_of(graph, node.inputs[0]), Box.whole(shape_of(graph, node.outputs[0]))
    rules: Axes = reads(node, graph)[0] or ()
    x = Box((wanted.ranges[0], wanted.ranges[1], *Box.whole(shape).ranges[FIRST:]))
    y, pads, n = wanted, list(node.attributes["pads"]), len(shape) - FIRST
    for i, axis in enumerate(range(FIRST, len(shape))):
        r = wanted.ranges[axis]
        part = inside(rules[axis], r, shape[axis]) if r != whole.ranges[axis] else None
        if part is None:
            y = y.along(axis, whole.ranges[axis])
            continue
        x = x.along(axis, part[0])
        pads[i], pads[n + i] = part[1], min(part[2], pads[n + i])
    return x, y, {**node.attributes, "pads": tuple(pads)}


def _groups(node: Node, graph: Graph, wanted: Range, filters: int) -> tuple[Range, Range, int]:
    """The filters that are made for those that are wanted, the channels they see, and their groups."""
    groups, channels = node.attributes.get("group", 1), shape_of(graph, node.inputs[0])[1]
    each, seen = filters // groups, channels // groups
    first, last = wanted.start // each, -(-wanted.stop // each)
    if last - first > 1:
        wanted = Range(first * each, last * each)
    return wanted, Range(first * seen, last * seen), last - first


def _convolution(node: Node, x: Box, weight: Box, y: Box) -> LocalNode:
    """With bias and residual."""
    boxes = (x, weight, Box((y.ranges[1],)), y)
    reads = tuple(box if name else None for box, name in zip(boxes, node.inputs, strict=False))
    return LocalNode(node, reads, (y,))


def _aligned(node: Node, read: Read, wanted: Range, extent: int, length: int) -> tuple[Range, Range] | None:
    """The ranges of input and output that begin at multiples of the scale, and hold what is read and wanted."""
    up, down = read.scale.numerator, read.scale.denominator
    exact = not up & (up - 1) and not down & (down - 1)
    if not exact and node.attributes.get("mode", "nearest") != "nearest":
        return None
    part = read(*wanted).joined(Range(wanted.start * down // up, -(-wanted.stop * down // up))).clipped(extent)
    start, stop = part.start // down * down, min(extent, -(-part.stop // down) * down)
    output = Range(start * up // down, length if stop == extent else stop * up // down)
    return (Range(start, stop), output) if output.stop - output.start > 1 else None
