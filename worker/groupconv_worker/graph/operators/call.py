"""The argument of an operator's definition: one node with the values of its inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from groupconv_worker.graph.graph import Node, Tensor

Product = Callable[[Any, Any], Any]
"""A matrix product of stacks of matrices, (…, rows, inner) by (…, inner, columns)."""


@dataclass(frozen=True, slots=True)
class Call:
    """A node and the values of its inputs.

    Attributes:
        node: with its attributes.
        inputs: floats as float64; None is one that is left out.
        outputs: what is known of the outputs.
        product: multiplies matrices.
    """

    node: Node
    inputs: Sequence[Any]
    outputs: Sequence[Tensor | None]
    product: Product = np.matmul

    @property
    def x(self) -> Any:
        """The first input."""
        return self.inputs[0]

    @property
    def output(self) -> Tensor:
        """The dtype and shape of the first output, which every node has."""
        assert self.outputs[0] is not None
        return self.outputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return self.output.shape

    def given(self, position: int) -> Any:
        """An input, or None."""
        return self.inputs[position] if position < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or the value that stands for one that is left out."""
        return self.node.attributes.get(name, default)

    def option(self, name: str, position: int, default: Any = None) -> Any:
        """A parameter that is an attribute if it is constant, and an input if it is not."""
        value = self.given(position)
        return self.attribute(name, default) if value is None else value


Definition = Callable[[Call], Any]
"""Computes an operator's output, or a tuple of its outputs."""
