"""Costs in seconds of a node on a worker, and of sending boxes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from groupconv_server.planner.rates import CLASSES, Rates, median
from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.reads import bytes_of
from groupconv_worker.graph.partition.local import LocalNode
from groupconv_worker.graph.work import multiply_adds

STAGE = 2e-6
"""Seconds of an operator without elements: the barriers of its stages."""


class Interconnect(NamedTuple):
    """What is between two workers.

    Attributes:
        rate: bytes per second, in each direction.
        latency: seconds until the first byte of an exchange is there.
    """

    rate: float
    latency: float

    def seconds(
        self, most: NDArray[np.float64], total: NDArray[np.float64], senders: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Predicted seconds of exchanges.

        Args:
            most: bytes that one interface receives, at most.
            total: bytes that all receive.
            senders: interfaces that have what is sent.
        """
        seconds: NDArray[np.float64] = self.latency + np.maximum(most, total / senders) / self.rate
        return np.where(total > 0, seconds, 0.0)


SHARED = Interconnect(5e9, 2e-5)
"""Memory that two workers of a node share."""
TCP = Interconnect(2e9, 1e-4)
"""TCP between two nodes where none was measured: about the rate of bench/lanes.py at 16 MiB; the latency is assumed."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Rates of the workers, which are alike, and of what is between them.

    Attributes:
        rates: of a worker, and of its link to the coordinator.
        within_node: between workers of one node.
        between_nodes: between workers of different nodes; those of a node share its interface.
    """

    rates: Rates
    within_node: Interconnect = SHARED
    between_nodes: Interconnect = TCP

    @classmethod
    def of(cls, measured: Iterable[Rates]) -> Self:
        """From the rates of all workers. The slowest link of the coordinator is taken for one between nodes.

        Example:
            >>> costs = Costs.of([Rates(), Rates(link=1e9, latency=4e-4)])
            >>> costs.within_node == SHARED, costs.between_nodes
            (True, Interconnect(rate=1000000000.0, latency=0.0002))
            >>> Costs.of([]) == Costs(Rates())
            True
        """
        rates_of_workers = list(measured) or [Rates()]
        slowest = min(rates_of_workers, key=lambda rates: rates.link)
        if math.isinf(slowest.link):
            return cls(median(rates_of_workers))
        return cls(
            median(rates_of_workers), between_nodes=Interconnect(slowest.link, slowest.latency / 2)
        )  # there, and not back

    def node_seconds(self, local: LocalNode, graph: Graph) -> float:
        """Predicted seconds of a node on one worker: its multiply-adds, and the bytes that it reads and writes."""
        boxes = zip((*local.node.inputs, *local.node.outputs), (*local.reads, *local.makes), strict=True)
        moved = sum(bytes_of(graph, name, box) for name, box in boxes if box is not None)
        work = _work(local, graph)
        return STAGE + work / self.rates.multiply_adds[_class_of(local.node, graph)] + moved / self.rates.memory

    def coordinator_seconds(self, total: float, messages: float) -> float:
        """Predicted seconds to send bytes of inputs to workers, one after another."""
        return total / min(self.rates.link, self.rates.memory) + messages * self.rates.dispatch


def _work(local: LocalNode, graph: Graph) -> int:
    """Multiply-adds of the part."""
    node, output, read = local.node, local.makes[0], local.reads[0] if local.reads else None
    if output is None or read is None or len(node.inputs) < 2 or not node.inputs[1]:
        return 0
    weights = graph.tensors[node.inputs[1]].shape
    transposed = bool(node.attributes.get("transA"))
    return multiply_adds(node.op, read.shape, weights, output.shape, transposed=transposed)


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
