"""Which tensors of a network are channel-blocked maps, with which margins, and which of them share memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.blocked.layout import Blocked
from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.needed.box import Box, Range

SLICES = 128
"""Samples times slices of a tensor of three axes of space, up to which it is a map: each of them has its own stages."""
Margin = tuple[int, int, int, int]
NO_MARGIN: Margin = (0, 0, 0, 0)
MAP_OPERATORS = frozenset(
    [
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "AffineChannel",
        "BatchNormalization",
        "LRN",
        "Pad",
        "Resize",
        "ChannelShuffle",
    ]
)
"""Operators whose first input and output are maps."""
IN_PLACE = frozenset(["AffineChannel", "BatchNormalization"])
"""Operators of maps that may write over their first input; elementwise operators may, too."""
LIKE_INPUTS = frozenset(["Concat", "Split", "Slice", "ReduceMean", "ReduceMax"])
"""Operators beside those of each element whose output is a map if an input is one."""


class Root(NamedTuple):
    """Whose memory a map lies in.

    Attributes:
        name: of the tensor that the memory was made for.
        channel: of it with which this one begins.
    """

    name: str
    channel: int = 0


@dataclass
class MemoryLayout:
    """How the tensors of a graph lie.

    Attributes:
        maps: the names of those that are channel-blocked.
        roots: of those that lie in another's memory.
        margins: of the memory of each root.
    """

    maps: set[str] = field(default_factory=set)
    roots: dict[str, Root] = field(default_factory=dict)
    margins: dict[str, Margin] = field(default_factory=dict)

    def root(self, name: str) -> Root:
        """The tensor in whose memory a map is: itself, unless it is in another's."""
        channel = 0
        while name in self.roots:
            name, more = self.roots[name]
            channel += more
        return Root(name, channel)

    def layout(self, tensor: Tensor) -> Blocked:
        """How a sample of a map lies, or a slice of a volume, from the first of its channels on."""
        _, channels, *_, rows, columns = tensor.shape
        margin = self.margins.get(self.root(tensor.name).name, NO_MARGIN)
        return Blocked(channels, rows, columns, LANES, margin)


def plan(graph: Graph, pointwise: frozenset[str], margin: Callable[[Node], Margin]) -> MemoryLayout:
    """Plan the tensors of a graph.

    Args:
        graph: whose nodes are lowered.
        pointwise: operators of each element.
        margin: what a node needs around its first input.
    """
    layout = MemoryLayout()
    last_use = {name: number for number, node in enumerate(graph.nodes) for name in (*node.inputs, *node.outputs)}
    last_use.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    wanted = _read_as_maps(graph, pointwise)
    for node in graph.nodes:
        alike = node.op in pointwise or node.op in LIKE_INPUTS
        received = node.op == "Receive" and node.attributes["blocked"]
        turned = node.op == "Transpose" and node.attributes.get("perm") == (0, 3, 1, 2) and node.outputs[0] in wanted
        if (
            node.op in MAP_OPERATORS
            or received
            or turned
            or (alike and any(name in layout.maps for name in node.inputs))
        ):
            layout.maps.update(name for name in node.outputs if name and is_map(graph.tensors[name]))
    for number, node in enumerate(graph.nodes):
        if node.op == "Concat" and node.outputs[0] in layout.maps:
            parts = _parts_in_place(graph, node, layout)
        elif (node.op in pointwise or node.op in IN_PLACE) and node.outputs[0] in layout.maps:
            parts = _reused(graph, node, layout) if last_use[node.inputs[0]] <= number else {}
        else:
            continue
        layout.roots.update(parts)
        for name, part in parts.items():  # nothing is placed in a part later: nodes come after those that they read
            last_use[part.name] = max(last_use[part.name], last_use[name])
    for node in graph.nodes:
        if node.op in ("Conv", "ConvTranspose") and node.inputs[0] in graph.tensors:
            root = layout.root(node.inputs[0]).name
            layout.margins[root] = widest(layout.margins.get(root, NO_MARGIN), margin(node))
    return layout


def _read_as_maps(graph: Graph, pointwise: frozenset[str]) -> set[str]:
    """The tensors that an operator of maps reads, through those of each element."""
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op in MAP_OPERATORS:
            wanted.update(node.inputs[:1])
        elif node.op in pointwise and node.outputs[0] in wanted:
            wanted.update(node.inputs)
    return wanted


def widest(a: Margin, b: Margin) -> Margin:
    """The larger of two margins on each side."""
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def is_map(tensor: Tensor) -> bool:
    """Whether a tensor can be channel-blocked: a map, or a volume, whose slices are maps."""
    shape = tensor.shape
    if len(shape) not in (4, 5) or tensor.dtype != np.float32 or min(shape) < 1:
        return False
    return len(shape) == 4 or slices(shape) <= SLICES


def slices(shape: Sequence[int]) -> int:
    """The maps of two axes that a tensor is.

    Example:
        >>> slices((2, 16, 7, 7)), slices((2, 16, 5, 7, 7))
        (2, 10)
    """
    return shape[0] * math.prod(shape[2:-2])


def _is_free(graph: Graph, name: str, plan_: MemoryLayout) -> bool:
    """Whether a tensor is a map that a node makes and that lies in no other's memory yet."""
    return name in plan_.maps and name in graph.makers and name not in plan_.roots


def _parts_in_place(graph: Graph, node: Node, layout: MemoryLayout) -> dict[str, Root]:
    """The inputs of a concatenation along channels that can be made in their places: whole blocks."""
    rank = len(graph.tensors[node.outputs[0]].shape)
    if node.attributes.get("axis", 1) % rank != 1:
        return {}
    parts: dict[str, Root] = {}
    channel, last = 0, len(node.inputs) - 1
    for i, name in enumerate(node.inputs):
        count = graph.tensors[name].shape[1]
        whole = channel % LANES == 0 and (count % LANES == 0 or i == last)
        if whole and _is_free(graph, name, layout) and node.inputs.count(name) == 1:
            parts[name] = Root(node.outputs[0], channel)
        channel += count
    return parts


def slice_box(graph: Graph, node: Node) -> Box | None:
    """The box of its input that a Slice takes; None if bounds are no constants, or steps are not 1."""
    starts, ends = node.attributes.get("starts"), node.attributes.get("ends")
    if starts is None or ends is None or any(step != 1 for step in node.attributes.get("steps") or ()):
        return None
    shape = graph.tensors[node.inputs[0]].shape
    box = Box.whole(shape)
    for axis, start, end in zip(node.attributes.get("axes") or range(len(starts)), starts, ends, strict=True):
        first, last, _ = slice(start, end).indices(shape[axis])
        box = box.along(axis % len(shape), Range(first, last))
    return box


def _reused(graph: Graph, node: Node, layout: MemoryLayout) -> dict[str, Root]:
    """The first input, if the node may write over it, as nothing reads its memory afterwards."""
    x, y = node.inputs[0], node.outputs[0]
    alike = graph.tensors[x].shape == graph.tensors[y].shape
    return {x: Root(y)} if alike and node.inputs.count(x) == 1 and _is_free(graph, x, layout) else {}
