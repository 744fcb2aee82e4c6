"""What a fused node does after its own work: the addition of a residual, then an activation."""

from dataclasses import replace
from typing import Any

from groupconv_worker.graph.graph import Node
from groupconv_worker.graph.operators.call import Call, Definition
from groupconv_worker.graph.operators.pointwise import POINTWISE

RESIDUAL = 3
"""The position of a convolution's residual among its inputs: ONNX has input, weight and bias before it."""
PARAMETERS: dict[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "HardSigmoid": ("alpha", "beta"),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Silu": (),
    "Tanh": (),
}
"""Operators that may be activations of another node, and the attributes that follow their name there."""


def activation_node(activation: tuple[Any, ...]) -> Node:
    """The node that an activation (name, *parameters) stands for.

    Example:
        >>> activation_node(("Clip", 0.0, 6.0)).attributes
        {'min': 0.0, 'max': 6.0}
    """
    name, *parameters = activation
    return Node(name, ("x",), ("y",), dict(zip(PARAMETERS[name], parameters, strict=True)))


def with_epilogue(definition: Definition) -> Definition:
    """A definition that also adds the residual and applies the activation, where a node has them."""

    def computed(call: Call) -> Any:
        residual = call.given(RESIDUAL) if call.node.op in ("Conv", "ConvTranspose") else None
        activation = call.attribute("activation")
        if residual is None and activation is None:
            return definition(call)
        found = definition(call)
        if residual is not None:
            found = found + residual
        if activation is not None:
            node = activation_node(activation)
            found = POINTWISE[node.op](replace(call, node=node, inputs=[found]))
        return found

    return computed
