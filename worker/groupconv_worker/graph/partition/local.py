"""The node that makes a part of a tensor: what it reads, its attributes, and what it makes.

Where an operator cannot make the wanted part alone it makes more, and the rest is dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.box import Box, Range
from groupconv_worker.graph.needed.propagate import read_box
from groupconv_worker.graph.needed.reads import Read, Reads
from groupconv_worker.graph.needed.table import reads


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A node for a part of its outputs.

    Attributes:
        node: with the attributes for the part; inputs and outputs have the names of the whole tensors.
        reads: the box of each input, inside of its tensor; None for an input that is left out.
        makes: the box of each output, at least what is wanted; None for an output that is left out. What is made beyond
            the wanted part may be wrong: windows at its edge do not see all of the map.
    """

    node: Node
    reads: tuple[Box | None, ...]
    makes: tuple[Box | None, ...]


LocalRule = Callable[[Node, Graph, Box], LocalNode]
"""The local node of an operator for a box of its first output."""


def whole_node(node: Node, graph: Graph) -> LocalNode:
    """The node as it is."""
    boxes = {name: Box.whole(graph.tensors[name].shape) for name in (*node.inputs, *node.outputs) if name}
    return LocalNode(node, tuple(map(boxes.get, node.inputs)), tuple(map(boxes.get, node.outputs)))


def separable_node(node: Node, graph: Graph, wanted: Box) -> LocalNode:
    """The node of an operator that computes each part of an axis as it computes the whole, where a rule follows it."""
    rules = reads(node, graph)
    followed = {read.axis for axes in rules for read in axes or () if read is not None}
    makes = keep_axes(wanted, graph.tensors[node.outputs[0]].shape, followed)
    return LocalNode(node, read_boxes(node, graph, rules, makes), _all_outputs(node, graph, makes, followed))


def keep_axes(wanted: Box, shape: Sequence[int], axes: Sequence[int] | set[int]) -> Box:
    """The wanted part along some axes, and all of the others."""
    whole = Box.whole(shape).ranges
    return Box(tuple(r if axis in axes else whole[axis] for axis, r in enumerate(wanted.ranges)))


def read_boxes(node: Node, graph: Graph, rules: Reads, makes: Box) -> tuple[Box | None, ...]:
    """The box of each input that a node reads for a box of its output, without padding."""
    boxes: list[Box | None] = []
    for name, axes in zip(node.inputs, rules, strict=True):
        if not name:
            boxes.append(None)
            continue
        shape = graph.tensors[name].shape
        boxes.append(read_box(axes, makes, shape).clipped(shape))
    return tuple(boxes)


def inside(read: Read | None, wanted: Range, extent: int) -> tuple[Range, int, int] | None:
    """The range that is read of an axis, and how many elements of padding before and after it; None if it is empty."""
    if read is None:
        return None
    start, stop = read(*wanted)
    part = Range(start, stop).clipped(extent)
    return None if part.start >= part.stop else (part, part.start - start, stop - part.stop)


def _all_outputs(node: Node, graph: Graph, makes: Box, followed: set[int]) -> tuple[Box | None, ...]:
    """The same part of each output: along the followed axes, which all have."""
    boxes: list[Box | None] = []
    for name in node.outputs:
        shape = graph.tensors[name].shape if name else ()
        boxes.append(keep_axes(makes, shape, followed) if name else None)
    return tuple(boxes)
