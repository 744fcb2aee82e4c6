"""Rules of what a node reads of its inputs, one for each axis of each input."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.box import Box, Range


@dataclass(frozen=True, slots=True)
class Read:
    """The elements of an input's axis that are read for an element of an output's axis.

    For element i of the output they are those from ⌊(i · step + first) / divide⌋ to ⌊(i · step + last) / divide⌋.

    Attributes:
        axis: of the output.
        step, divide: the input advances by step / divide for each element of the output.
        first, last: offsets, in parts of 1 / divide.

    Example:
        >>> Read(2, step=2, first=-1, last=1)(4, 6)  # a convolution of 3 taps with stride 2 and padding 1
        Range(start=7, stop=12)
    """

    axis: int
    step: int = 1
    divide: int = 1
    first: int = 0
    last: int = 0

    def __call__(self, start: int, stop: int) -> Range:
        """The range that is read for the elements from `start` to before `stop`, at least one."""
        return Range(
            (start * self.step + self.first) // self.divide, ((stop - 1) * self.step + self.last) // self.divide + 1
        )

    @property
    def scale(self) -> Fraction:
        """Elements of the output for each element of the input."""
        return Fraction(self.divide, self.step)


Axes = tuple[Read | None, ...]
"""A rule for each axis of an input; None where all of the axis is read, whatever part of the output is wanted."""
Reads = tuple[Axes | None, ...]
"""The axes of each input of a node; None for an input that is left out, or that is read as a whole."""
Rule = Callable[[Node, Graph], Reads]


def shape_of(graph: Graph, name: str) -> tuple[int, ...]:
    """The shape of a tensor."""
    return graph.tensors[name].shape


def bytes_of(graph: Graph, name: str, box: Box) -> int:
    """Bytes of a box of a tensor."""
    return math.prod(box.shape) * graph.tensors[name].dtype.itemsize


def argument(node: Node, graph: Graph, name: str, index: int) -> tuple[Any, ...] | None:
    """A parameter that is an attribute, or input number `index`, as a tuple; None if it is left out or not constant."""
    value = node.attributes.get(name)
    if value is None and index < len(node.inputs) and node.inputs[index] in graph.constants:
        value = graph.constants[node.inputs[index]]
    if value is None:
        return None
    values: tuple[Any, ...] = tuple(np.asarray(value).reshape(-1).tolist())
    return values


def axis_of(node: Node, rank: int, default: int) -> int:
    """The attribute `axis`, counted from the front."""
    return int(node.attributes.get("axis", default)) % max(rank, 1)


def same(rank: int, without: Sequence[int] = ()) -> Axes:
    """Each element is read for the element of the output at its place; of the axes `without`, everything."""
    return tuple(None if axis in without else Read(axis) for axis in range(rank))


def only(node: Node, axes: Axes, at: int = 0) -> Reads:
    """The reads of a node of which one input is a map and the others are read as wholes."""
    return tuple(axes if i == at else None for i in range(len(node.inputs)))
