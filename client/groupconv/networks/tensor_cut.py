"""The cut of one tensor of a network: who makes which part of it."""

from dataclasses import dataclass

Box = tuple[tuple[int, int], ...]
"""A part of a tensor: start and stop of each axis."""


@dataclass(frozen=True, slots=True)
class TensorCut:
    """One tensor of a network, and the node that makes it.

    Attributes:
        node: its name in the model; fused nodes have the name of their last one.
        op: the operator.
        tensor: its name.
        shape: of the whole.
        cut: in words, as "rows 112|112".
        boxes: what each worker makes; None for a worker that makes nothing of it.
        exchanged_bytes: that workers send to one another of it.
        seconds: predicted, of the node on the worker that takes longest.
        exchange_seconds: predicted, until all that the node reads is there.
    """

    node: str
    op: str
    tensor: str
    shape: tuple[int, ...]
    cut: str
    boxes: tuple[Box | None, ...]
    exchanged_bytes: int
    seconds: float
    exchange_seconds: float
