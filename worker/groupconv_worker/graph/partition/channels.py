"""Local nodes of operators that join, mix or scale channels, and of matrix products with weights."""

from dataclasses import replace

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.box import Box, Range
from groupconv_worker.graph.needed.reads import axis_of, shape_of
from groupconv_worker.graph.partition.local import LocalNode, keep_axes, separable_node


def local_concat(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """Concat: of the inputs that have a part of what is wanted."""
    axis, start = axis_of(node, len(wanted.ranges), 0), 0
    names, boxes = [], []
    for name in node.inputs:
        extent = shape_of(graph, name)[axis]
        part = Range(wanted.ranges[axis].start - start, wanted.ranges[axis].stop - start).clipped(extent)
        start += extent
        if part.start < part.stop:
            names.append(name)
            boxes.append(wanted.along(axis, part))
    return LocalNode(replace(node, inputs=tuple(names)), tuple(boxes), (wanted,))


def local_gemm(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """Gemm: rows of A, columns of B."""
    rows, columns = wanted.ranges
    a, b = (Box.whole(shape_of(graph, name)) for name in node.inputs[:2])
    boxes: list[Box | None] = [
        a.along(1 if node.attributes.get("transA") else 0, rows),
        b.along(0 if node.attributes.get("transB") else 1, columns),
    ]
    if len(node.inputs) > 2:
        shape = shape_of(graph, node.inputs[2]) if node.inputs[2] else ()
        part = [
            r if extent > 1 else Range(0, 1) for r, extent in zip(wanted.ranges[2 - len(shape) :], shape, strict=True)
        ]
        boxes.append(Box(tuple(part)) if node.inputs[2] else None)
    return LocalNode(node, tuple(boxes), (wanted,))


def local_response(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """LRN: some channels more, whose own outputs are dropped."""
    size, channels = node.attributes["size"], wanted.ranges[1]
    before = (size - 1) // 2
    seen = Range(channels.start - before, channels.stop + size - 1 - before)
    x = wanted.along(1, seen.clipped(shape_of(graph, node.inputs[0])[1]))
    return LocalNode(node, (x,), (x,))


def local_scaled(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """BatchNormalization, InstanceNormalization, AffineChannel: parameters of the channels that are made."""
    local = separable_node(node, graph, wanted)
    y = local.makes[0]
    assert y is not None
    parameters = tuple(Box((y.ranges[1],)) if name else None for name in node.inputs[1:])
    return replace(local, reads=(local.reads[0], *parameters))


def local_expand(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """Expand: to the shape of the part."""
    local = separable_node(node, graph, wanted)
    y = local.makes[0]
    assert y is not None
    return replace(local, node=replace(node, attributes={"shape": y.shape}))


def local_depth_to_space(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """DepthToSpace: whole blocks."""
    size, shape = int(node.attributes["blocksize"]), shape_of(graph, node.outputs[0])
    blocks = [Range(r.start // size * size, -(-r.stop // size) * size) for r in wanted.ranges]
    return separable_node(node, graph, keep_axes(Box((wanted.ranges[0], *blocks[1:])), shape, (0, 2, 3)))
