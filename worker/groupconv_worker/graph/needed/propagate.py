"""Needed boxes: backwards through a graph, from parts of outputs to parts of everything that they are made from."""

from collections.abc import Mapping

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.box import Box, Range
from groupconv_worker.graph.needed.reads import Axes
from groupconv_worker.graph.needed.table import reads


def needed(graph: Graph, boxes: Mapping[str, Box], *, clip: bool = True) -> dict[str, Box]:
    """The part of each tensor that certain parts of outputs depend on.

    Args:
        graph: a bound one.
        boxes: parts of its tensors that are wanted, none empty.
        clip: whether boxes end where their tensors do. Otherwise they reach into padding, as if maps were endless.

    Returns:
        A box for each tensor that the wanted parts depend on, constants too.

    Example:
        >>> import numpy as np
        >>> from groupconv_worker.graph.graph import Tensor
        >>> f32 = np.dtype("float32")
        >>> tensors = {name: Tensor(name, f32, (1, 1, 8)) for name in "xy"} | {"w": Tensor("w", f32, (1, 1, 3))}
        >>> node = Node("Conv", ("x", "w"), ("y",), {"pads": (1, 1)})
        >>> graph = Graph(("x",), ("y",), (node,), tensors, {"w": np.ones((1, 1, 3), np.float32)})
        >>> needed(graph, {"y": Box.of((0, 1), (0, 1), (0, 2))})["x"].ranges[2]
        Range(start=0, stop=3)
    """
    needs = dict(boxes)
    for node in reversed(graph.nodes):
        wanted = _joined_outputs(node, needs)
        if wanted is None:
            continue
        for name, axes in zip(node.inputs, reads(node, graph), strict=True):
            if name:
                box = read_box(axes, wanted, graph.tensors[name].shape)
                box = box.clipped(graph.tensors[name].shape) if clip else box
                needs[name] = needs[name].joined(box) if name in needs else box
    return needs


def _joined_outputs(node: Node, boxes: Mapping[str, Box]) -> Box | None:
    """The part of a node's outputs that is wanted: of one of them, or of several of the same rank."""
    wanted = [boxes[name] for name in node.outputs if name in boxes]
    if not wanted:
        return None
    box = wanted[0]
    for other in wanted[1:]:
        box = box.joined(other)
    return box


def read_box(axes: Axes | None, wanted: Box, shape: tuple[int, ...]) -> Box:
    """The box of an input that is read for a box of the output. It may reach outside of the input, into its padding."""
    if axes is None:
        return Box.whole(shape)
    ranges = [
        Range(0, extent) if read is None else read(*wanted.ranges[read.axis])
        for read, extent in zip(axes, shape, strict=True)
    ]
    return Box(tuple(ranges))
