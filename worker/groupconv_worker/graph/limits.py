"""Bounds on the models that a server takes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Bounds that are checked before a model is given to a runtime.

    Attributes:
        nodes: operators, with those of subgraphs, and of functions as often as they are called.
        depth: subgraphs and functions inside one another.
        axes: of an input.
        tensor_bytes: of any tensor whose shape is known before the call.
    """

    nodes: int = 100_000
    depth: int = 16
    axes: int = 8
    tensor_bytes: int = 2 * 2**30
