"""The epilogue of a fused node: the addition of a residual, then an activation."""

from typing import Any

from groupconv_worker.graph.graph import Node

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
