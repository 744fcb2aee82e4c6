"""What a call of a network computes, and how one was answered."""

from dataclasses import dataclass

from groupconv.networks.tensors import TensorInfo
from groupconv.text import human_bytes, milliseconds, table


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
    """

    name: str
    op: str
    shape: tuple[int, ...] | None
    weights: int
    multiply_adds: int
    algorithm: str


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What a call with inputs of certain shapes computes; `print(plan)` shows a table.

    Attributes:
        nodes: the operators in order.
        outputs: the network's outputs, with all extents that are known before the call.
        peak_bytes: of all tensors that are alive at the same time, as far as their shapes are known.
    """

    nodes: tuple[NodePlan, ...]
    outputs: tuple[TensorInfo, ...]
    peak_bytes: int

    @property
    def weights(self) -> int:
        """Number of all weights."""
        return sum(node.weights for node in self.nodes)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all convolutions and matrix products."""
        return sum(node.multiply_adds for node in self.nodes)

    def __str__(self) -> str:
        rows = [("node", "operator", "output", "weights", "multiply-adds", "runs on")]
        rows += [
            (node.name, node.op, "?" if node.shape is None else "×".join(map(str, node.shape)) or "scalar",
             f"{node.weights:,}" if node.weights else "-", f"{node.multiply_adds:,}" if node.multiply_adds else "-",
             node.algorithm)
            for node in self.nodes
        ]  # fmt: skip
        total = (
            f"{self.weights:,} weights, {self.multiply_adds:,} multiply-adds, {human_bytes(self.peak_bytes)} at most"
        )
        outputs = "\n".join(f"output {info}" for info in self.outputs)
        return f"{table(rows, left=frozenset({0, 1, 2, 5}))}\n{total}\n{outputs}"


@dataclass(frozen=True, slots=True)
class PartReport:
    """Operators that were run as one.

    Attributes:
        algorithm: who ran them.
        nodes: their number.
        seconds: in the worker.
        reason: why this algorithm ran them.
    """

    algorithm: str
    nodes: int
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """How a call was answered; `print(report)` shows it.

    Attributes:
        worker: id of the worker that ran it.
        parts: what the network was run in, in order.
        coordinator_bytes: of inputs and outputs that passed through the coordinator.
        seconds: from a parsed request to its outputs.
    """

    worker: str
    parts: tuple[PartReport, ...]
    coordinator_bytes: int
    seconds: float

    def __str__(self) -> str:
        lines = [f"{milliseconds(self.seconds)} on {self.worker}, {human_bytes(self.coordinator_bytes)} in and out"]
        lines += [f"{p.nodes} nodes by {p.algorithm} in {milliseconds(p.seconds)}: {p.reason}" for p in self.parts]
        return "\n".join(lines)
