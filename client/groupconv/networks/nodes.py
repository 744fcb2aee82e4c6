"""One operator of a network, as plans describe it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One operator of a call.

    Attributes:
        name: in the model.
        op: the operator.
        shape: of its first output; None if it is not known before the call.
        weights: number of its weights.
        multiply_adds: of convolutions and matrix products, else 0.
        algorithm: who runs it.
        inputs: names of the tensors it reads, without weights.
        outputs: names of the tensors it makes.
        receptive_field: elements of the network's input that one element of the output depends on at most, along each
            axis behind the channels; None if it depends on no input, or an operator hides it.
        stride: elements of the network's input between neighbors in the output, along the same axes; None where each
            element depends on the whole.
        window: of a convolution or pool, for people, as "5×5, stride 2, 2 groups"; else "".
        seconds: on a worker, in the last run that took the time of each node; None before the first one, and for what
            is fused into another node.
        fused_into: name of the node that the time of this one is part of; empty for others.
    """

    name: str
    op: str
    shape: tuple[int, ...] | None
    weights: int
    multiply_adds: int
    algorithm: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    receptive_field: tuple[int, ...] | None = None
    stride: tuple[float, ...] | None = None
    window: str = ""
    seconds: float | None = None
    fused_into: str = ""
