"""What a node takes on a worker, and what it takes to send boxes."""

import math
from dataclasses import dataclass

from groupconv_server.planner.rates import CLASSES, Rates
from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.reads import bytes_of
from groupconv_worker.graph.partition.local import LocalNode
from groupconv_worker.graph.work import multiply_adds

STAGE = 2e-6
"""Seconds of an operator without elements: the barriers of its stages."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Rates of the workers, which are alike, and of what is between them.

    Attributes:
        rates: of a worker, and of its link to the coordinator.
        link: bytes per second from worker to worker, in each direction.
        latency: seconds until the first byte of an exchange is there.
    """

    rates: Rates
    link: float = 5e9
    latency: float = 2e-5

    def node_seconds(self, local: LocalNode, graph: Graph) -> float:
        """Predicted seconds of a node on one worker: its multiply-adds, and the bytes that it reads and writes."""
        boxes = zip((*local.node.inputs, *local.node.outputs), (*local.reads, *local.makes), strict=True)
        moved = sum(bytes_of(graph, name, box) for name, box in boxes if box is not None)
        work = _work(local, graph)
        return STAGE + work / self.rates.multiply_adds[_class_of(local.node, graph)] + moved / self.rates.memory

    def exchange_seconds(self, most: float, total: float, senders: int) -> float:
        """Predicted seconds of an exchange.

        Args:
            most: bytes that one worker receives, at most.
            total: bytes that all receive.
            senders: workers that have what is sent.
        """
        return self.latency + max(most, total / senders) / self.link if total else 0.0

    def coordinator_seconds(self, total: float, messages: float) -> float:
        """Predicted seconds to send bytes of inputs to workers, one after another."""
        return total / min(self.rates.link, self.rates.memory) + messages * self.rates.dispatch


def _work(local: LocalNode, graph: Graph) -> int:
    """Multiply-adds of the part."""
    node, made, read = local.node, local.makes[0], local.reads[0] if local.reads else None
    if made is None or read is None or len(node.inputs) < 2 or not node.inputs[1]:
        return 0
    weights = graph.tensors[node.inputs[1]].shape
    transposed = bool(node.attributes.get("transA"))
    return multiply_adds(node.op, read.shape, weights, made.shape, transposed=transposed)


def _class_of(node: Node, graph: Graph) -> int:
    """Index in `CLASSES`."""
    if node.op not in ("Conv", "ConvTranspose"):
        return CLASSES.index("dense")
    shape = graph.tensors[node.inputs[1]].shape
    if node.op == "ConvTranspose":
        return CLASSES.index("transposed")
    if shape[1] == 1:
        return CLASSES.index("depthwise")
    if math.prod(shape[2:]) == 1:
        return CLASSES.index("pointwise")
    return CLASSES.index("grouped" if node.attributes.get("group", 1) > 1 and shape[1] <= 16 else "dense")
