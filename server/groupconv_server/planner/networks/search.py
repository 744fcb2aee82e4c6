"""The cheapest cuts for all nodes of a network together.

The predicted time of a call is the sum of what the input takes to the workers, of each node on the worker that takes
longest, and of each exchange before a node. A node's time depends on its own cut, an exchange on those of both its
ends: so the best choice is found by variable elimination.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from groupconv_server.planner.networks.candidates import Candidate, candidates
from groupconv_server.planner.networks.costs import Costs, nbytes
from groupconv_server.planner.networks.elimination import cheapest
from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.partition.cut import Cut
from groupconv_worker.graph.partition.local import LocalNode
from groupconv_worker.graph.partition.table import local_node


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What the planner predicts for one node.

    Attributes:
        seconds: of the node on the worker that takes longest.
        received: seconds until its inputs are there.
    """

    seconds: float
    received: float


@dataclass(frozen=True, slots=True)
class Found:
    """The cheapest cuts for a number of workers.

    Attributes:
        cuts: by tensor.
        nodes: predicted costs, in the order of the graph.
        returned: seconds of the outputs' way back.
    """

    cuts: Mapping[str, Cut]
    nodes: tuple[NodeCost, ...]
    returned: float

    @property
    def seconds(self) -> float:
        """Predicted time of a call."""
        return sum(cost.seconds + cost.received for cost in self.nodes) + self.returned


class _Option:
    """A candidate of a node with the local node of each worker."""

    def __init__(self, node: Node, graph: Graph, candidate: Candidate, workers: int, costs: Costs) -> None:
        self.candidate = candidate
        known: dict[tuple[Box | None, ...], LocalNode] = {}
        self.local: list[LocalNode | None] = []
        for worker in range(workers):
            boxes = tuple(cut.boxes[worker] for cut in candidate.cuts.values())
            wanted = {name: box for name, box in zip(candidate.cuts, boxes, strict=True) if box is not None}
            if wanted and boxes not in known:
                known[boxes] = local_node(node, graph, wanted)
            self.local.append(known[boxes] if wanted else None)
        self.seconds = max(costs.node_seconds(local, graph) for local in known.values())

    def needs(self, name: str) -> list[Box | None]:
        """The box of a tensor that each worker reads."""
        found: list[Box | None] = []
        for local in self.local:
            read = None
            if local is not None:
                for own, box in zip(local.node.inputs, local.reads, strict=True):
                    if own == name and box is not None:
                        read = box if read is None else read.joined(box)
            found.append(read)
        return found


def search(graph: Graph, workers: int, costs: Costs, given: Mapping[str, Cut] | None = None) -> Found:
    """The cheapest cuts.

    Args:
        graph: in canonical form.
        workers: to share the work.
        costs: of nodes and exchanges.
        given: cuts that are wanted; their nodes have no other candidate.
    """
    number = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
    options = []
    for node in graph.nodes:
        wanted = {name: given[name] for name in node.outputs if name and given and name in given}
        complete = wanted and len(wanted) == sum(map(bool, node.outputs))
        choices = [Candidate("given", wanted)] if complete else candidates(node, graph, workers)
        options.append([_Option(node, graph, choice, workers, costs) for choice in choices])
    tables = {}
    own = [np.array([option.seconds for option in choices]) for choices in options]
    for i, node in enumerate(graph.nodes):
        for name in dict.fromkeys(node.inputs):
            if name in number:
                tables[number[name], i, name] = _exchange_table(graph, name, options[number[name]], options[i], costs)
            elif name in graph.inputs:
                own[i] = own[i] + [_sent(graph, name, option, costs) for option in options[i]]
    chosen = cheapest(
        [len(choices) for choices in options],
        [((i,), table) for i, table in enumerate(own)] + [((a, b), table) for (a, b, _), table in tables.items()],
    )
    cuts = {
        name: cut for choices, i in zip(options, chosen, strict=True) for name, cut in choices[i].candidate.cuts.items()
    }
    received = [own[i][k] - options[i][k].seconds for i, k in enumerate(chosen)]
    for (a, b, _), table in tables.items():
        received[b] += table[chosen[a], chosen[b]]
    nodes = tuple(
        NodeCost(options[i][k].seconds, float(seconds))
        for i, (k, seconds) in enumerate(zip(chosen, received, strict=True))
    )
    back = sum(graph.tensors[name].nbytes for name in graph.outputs)
    return Found(cuts, nodes, costs.coordinator_seconds(back, workers))


def _exchange_table(graph: Graph, name: str, made: list[_Option], read: list[_Option], costs: Costs) -> np.ndarray:
    """Seconds of the exchange of a tensor for each cut of its node, and each of the node that reads it."""
    table = np.zeros((len(made), len(read)))
    needs = [option.needs(name) for option in read]
    for i, option in enumerate(made):
        boxes = option.candidate.cuts[name].boxes
        senders = len(option.candidate.cuts[name].workers)
        for j, wanted in enumerate(needs):
            missing = [_missing(graph, name, need, held) for need, held in zip(wanted, boxes, strict=True)]
            table[i, j] = costs.exchange_seconds(max(missing), sum(missing), senders)
    return table


def _missing(graph: Graph, name: str, need: Box | None, held: Box | None) -> int:
    """Bytes that a worker needs of a tensor and does not make."""
    if need is None:
        return 0
    common = None if held is None else need.common(held)
    return nbytes(graph, name, need) - (0 if common is None else nbytes(graph, name, common))


def _sent(graph: Graph, name: str, option: _Option, costs: Costs) -> float:
    """Seconds in which the coordinator sends an input to those that read it."""
    boxes = [box for box in option.needs(name) if box is not None]
    return costs.coordinator_seconds(sum(nbytes(graph, name, box) for box in boxes), len(boxes))
