"""Operators that read single elements or whole axes: arithmetic, normalization, reductions, and what moves axes."""

# ruff: noqa: ARG001 - all rules are called alike

import math

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.reads import Axes, Read, Reads, argument, axis_of, only, same, shape_of


def broadcast(node: Node, graph: Graph) -> Reads:
    """Element by element, with ONNX's broadcasting; inputs that are scalars or constants, too."""
    wanted = shape_of(graph, node.outputs[0])
    return tuple(_broadcast(shape_of(graph, name), wanted) if name else None for name in node.inputs)


def first_alone(node: Node, graph: Graph) -> Reads:
    """Element by element of the first input; the others are parameters."""
    return only(node, same(len(shape_of(graph, node.inputs[0]))))


def channels(node: Node, graph: Graph) -> Reads:
    """LRN and shuffles of channels: all of axis 1."""
    return only(node, same(len(shape_of(graph, node.inputs[0])), (1,)))


def batch_normalization(node: Node, graph: Graph) -> Reads:
    """BatchNormalization with constants; in training mode it reads everything."""
    rank = len(shape_of(graph, node.inputs[0]))
    return only(node, (None,) * rank if node.attributes.get("training_mode") else same(rank))


def over_space(node: Node, graph: Graph) -> Reads:
    """Global pools and InstanceNormalization: all axes from the third on."""
    rank = len(shape_of(graph, node.inputs[0]))
    return only(node, same(rank, range(2, rank)))


def over_groups(node: Node, graph: Graph) -> Reads:
    """GroupNormalization: all axes from the second on."""
    rank = len(shape_of(graph, node.inputs[0]))
    return only(node, same(rank, range(1, rank)))


def over_tail(node: Node, graph: Graph) -> Reads:
    """LayerNormalization and RMSNormalization: all axes from `axis` on."""
    rank = len(shape_of(graph, node.inputs[0]))
    return only(node, same(rank, range(axis_of(node, rank, -1), rank)))


def over_axis(node: Node, graph: Graph) -> Reads:
    """Softmax, TopK, CumSum and others: all of one axis."""
    rank = len(shape_of(graph, node.inputs[0]))
    axis = argument(node, graph, "axis", 1) if node.op == "CumSum" else None
    return only(node, same(rank, (axis[0] % rank if axis else axis_of(node, rank, -1),)))


def over_listed(node: Node, graph: Graph) -> Reads:
    """MeanVarianceNormalization: all of the axes that are listed."""
    rank = len(shape_of(graph, node.inputs[0]))
    return only(node, same(rank, [axis % rank for axis in node.attributes.get("axes", (0, 2, 3))]))


def reduction(node: Node, graph: Graph) -> Reads:
    """ReduceMean and others, ArgMax and ArgMin."""
    rank = len(shape_of(graph, node.inputs[0]))
    if node.op in ("ArgMax", "ArgMin"):
        gone = [axis_of(node, rank, 0)]
    else:
        axes = argument(node, graph, "axes", 1)
        gone = [axis % rank for axis in axes] if axes else []
        if not axes and not node.attributes.get("noop_with_empty_axes"):
            gone = list(range(rank))
    keeps = node.attributes.get("keepdims", 1)
    remaining = [axis for axis in range(rank) if keeps or axis not in gone]
    return only(node, tuple(None if axis in gone else Read(remaining.index(axis)) for axis in range(rank)))


def concatenation(node: Node, graph: Graph) -> Reads:
    """Concat."""
    rank = len(shape_of(graph, node.outputs[0]))
    return tuple(same(rank, (axis_of(node, rank, 0),)) for _ in node.inputs)


def split(node: Node, graph: Graph) -> Reads:
    """Split."""
    rank = len(shape_of(graph, node.inputs[0]))
    return only(node, same(rank, (axis_of(node, rank, 0),)))


def transpose(node: Node, graph: Graph) -> Reads:
    """Transpose."""
    rank = len(shape_of(graph, node.inputs[0]))
    order = [int(axis) for axis in node.attributes.get("perm", range(rank - 1, -1, -1))]
    return only(node, tuple(Read(order.index(axis)) for axis in range(rank)))


def reshape(node: Node, graph: Graph) -> Reads:
    """Reshape, Flatten, Squeeze, Unsqueeze: an axis goes on where its extent and all before it stay."""
    wanted = shape_of(graph, node.outputs[0])
    places = {(math.prod(wanted[:i]), extent): i for i, extent in reversed(list(enumerate(wanted)))}
    shape = shape_of(graph, node.inputs[0])
    axes: list[Read | None] = []
    for i, extent in enumerate(shape):
        place = places.get((math.prod(shape[:i]), extent))
        axes.append(None if place is None else Read(place))
    return only(node, tuple(axes))


def tile(node: Node, graph: Graph) -> Reads:
    """Tile."""
    x, y = shape_of(graph, node.inputs[0]), shape_of(graph, node.outputs[0])
    return only(node, same(len(x), [axis for axis in range(len(x)) if x[axis] != y[axis]]))


def gather(node: Node, graph: Graph) -> Reads:
    """Gather."""
    rank, more = len(shape_of(graph, node.inputs[0])), len(shape_of(graph, node.inputs[1])) - 1
    axis = axis_of(node, rank, 0)
    return only(node, tuple(None if i == axis else Read(i if i < axis else i + more) for i in range(rank)))


def product(node: Node, graph: Graph) -> Reads:
    """MatMul of tensors with at least two axes."""
    a, b, y = (shape_of(graph, name) for name in (*node.inputs[:2], node.outputs[0]))
    if min(len(a), len(b)) < 2:
        return only(node, (None,) * len(a))
    rank = len(y)
    left, right = _broadcast(a[:-2], y[:-2]), _broadcast(b[:-2], y[:-2])
    return ((*left, Read(rank - 2), None), (*right, None, Read(rank - 1)))


def gemm(node: Node, graph: Graph) -> Reads:
    """Gemm."""
    a: Axes = (None, Read(0)) if node.attributes.get("transA") else (Read(0), None)
    return only(node, a)


def _broadcast(shape: tuple[int, ...], wanted: tuple[int, ...]) -> Axes:
    """An axis of extent 1 is read for every element of a longer one."""
    before = len(wanted) - len(shape)
    return tuple(
        None if extent == 1 and wanted[before + i] != 1 else Read(before + i) for i, extent in enumerate(shape)
    )
