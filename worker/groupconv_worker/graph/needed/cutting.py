"""How a map may be cut into windows so that the network gives for each what it gives for the whole.

A window is the whole map without some steps at its front and at its end. A step is as long as the product of all
strides requires: without it each tensor is shorter by a whole number of its own elements. So strides meet the same
elements, padding that depends on the extent stays as it is, and all windows of an axis can have the same length.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from groupconv.errors import InvalidArgumentError, Words
from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.box import Box, Range
from groupconv_worker.graph.needed.propagate import needed
from groupconv_worker.graph.needed.table import reads


@dataclass(frozen=True, slots=True)
class Followed:
    """How one tensor follows an axis of the input.

    Attributes:
        axis: of the tensor.
        step: its elements for one step of the input.
        rest: its extent less that of all steps; below 0 where borders are lost.
    """

    axis: int
    step: int
    rest: int

    def extent(self, steps: int) -> int:
        """Elements of a map of so many steps."""
        return steps * self.step + self.rest


@dataclass(frozen=True, slots=True)
class CutAxis:
    """An axis along which a map may be cut.

    Attributes:
        axis: of the inputs.
        steps: of the whole map.
        front, back: steps that a window needs before and after those whose outputs it gives.
        tensors: how each tensor follows the axis; those that are the same for every window are not there.
    """

    axis: int
    steps: int
    front: int
    back: int
    tensors: Mapping[str, Followed]


def cut_axis(graph: Graph, axis: int, maps: Sequence[str]) -> CutAxis:
    """How an axis of some inputs may be cut.

    Args:
        graph: bound to the shapes of the whole; each of its nodes makes something that an output depends on.
        axis: of the inputs `maps`, along which they have the same extent.
        maps: names of the inputs that are cut.

    Raises:
        InvalidArgumentError: naming a node that needs all of the axis, or an output that does not have it.
    """
    scales = _scales(graph, axis, maps)
    for name in graph.outputs:
        if name not in scales:
            raise InvalidArgumentError(
                f"outputs[{name!r}]", f"an output that follows axis {axis} of the input", Words("one that does not")
            )
    unit = math.lcm(*(scale.denominator for _, scale in scales.values()))
    extent = graph.tensors[maps[0]].shape[axis]
    steps = extent // unit
    tensors = {}
    for name, (own, scale) in scales.items():
        step = int(unit * scale)
        tensors[name] = Followed(own, step, graph.tensors[name].shape[own] - steps * step)
    wanted = {}
    for name in graph.outputs:
        ranges = list(Box.whole(graph.tensors[name].shape).ranges)
        ranges[tensors[name].axis] = Range(0, tensors[name].step)
        wanted[name] = Box(tuple(ranges))
    front = back = 0
    for name, box in needed(graph, wanted, clip=False).items():
        if name in tensors:
            followed = tensors[name]
            start, stop = box.ranges[followed.axis]
            front = max(front, -(start // followed.step))
            back = max(back, -((followed.step + followed.rest - stop) // followed.step))
    return CutAxis(axis, steps, front, back, tensors)


def receptive_field(graph: Graph, cut: CutAxis, source: str) -> int:
    """Elements of an input's axis that one element of an output depends on, at most; 0 without one."""
    widest = 0
    for name in graph.outputs:
        followed = cut.tensors[name]
        for i in range(followed.step):
            ranges = list(Box.whole(graph.tensors[name].shape).ranges)
            ranges[followed.axis] = Range(i, i + 1)
            box = needed(graph, {name: Box(tuple(ranges))}, clip=False).get(source)
            widest = max(widest, box.shape[cut.axis] if box else 0)
    return widest


def _scales(graph: Graph, axis: int, maps: Sequence[str]) -> dict[str, tuple[int, Fraction]]:
    """For each tensor that follows the axis: its own axis, and its elements for one of the input."""
    scales = {name: (axis, Fraction(1)) for name in maps}
    for node in graph.nodes:
        rules = list(zip(node.inputs, reads(node, graph), strict=True))
        followed = set()
        for name, axes in rules:
            if name not in scales:
                continue
            own, scale = scales[name]
            read = None if axes is None else axes[own]
            if read is None:
                raise _refused(node, axis)
            followed.add((read.axis, scale * read.scale))
        if not followed:
            continue
        if len(followed) > 1:
            raise _refused(node, axis)
        ((place, scale),) = followed
        for name, axes in rules:
            shape = graph.tensors[name].shape if name and name not in scales else ()
            if any(r is not None and r.axis == place and n > 1 for r, n in zip(axes or (), shape, strict=False)):
                raise _refused(node, axis, f"{name!r}, which has the extent of the whole map")
        scales |= {name: (place, scale) for name in node.outputs if name and place < len(graph.tensors[name].shape)}
    return scales


def _refused(node: Node, axis: int, what: str = "") -> InvalidArgumentError:
    name = node.name or next(filter(None, node.outputs), "")
    return InvalidArgumentError(
        f"network.node ({node.op} {name!r})",
        f"an operator that reads a part of axis {axis} for a part of its output",
        Words(what or "one that needs all of it"),
    )
