"""The cheapest cuts for all nodes of a network together.

The predicted time of a call is the sum of what the input takes to the workers, of each node on the worker that takes
longest, and of each exchange before a node. A node's time depends on its own cut, an exchange on those of both its
ends: so the best choice is found by variable elimination. What crosses within a node goes by one link, what crosses
between nodes by another one, at the same time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from groupconv_server.planner.networks.candidates import Candidate, candidates
from groupconv_server.planner.networks.costs import Costs
from groupconv_server.planner.networks.elimination import cheapest
from groupconv_server.planner.networks.sample import Sample
from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.needed.reads import bytes_of
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
class CheapestCuts:
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
    """A candidate of a node with the local nodes of some workers."""

    def __init__(self, node: Node, graph: Graph, cuts: Candidate, sample: Sample, costs: Costs) -> None:
        self.cuts, self._sample = cuts, sample
        known: dict[tuple[Box | None, ...], LocalNode] = {}
        self.local: list[LocalNode | None] = []
        for worker in sample.workers:
            boxes = tuple(cut.boxes[worker] for cut in cuts.values())
            wanted = {name: box for name, box in zip(cuts, boxes, strict=True) if box is not None}
            if wanted and boxes not in known:
                known[boxes] = local_node(node, graph, wanted)
            self.local.append(known[boxes] if wanted else None)
        self.seconds = max(costs.node_seconds(local, graph) for local in known.values())

    def held(self, name: str) -> list[Box | None]:
        """The box of an output that each of these workers makes."""
        return [self.cuts[name].boxes[worker] for worker in self._sample.workers]

    def held_by_nodes(self, name: str) -> list[Box | None]:
        """The smallest box that has all that each worker's node makes of an output."""
        boxes = self.cuts[name].boxes
        held: list[Box | None] = []
        ends = (*self._sample.starts[1:], len(self._sample.workers))
        for members, start, end in zip(self._sample.members, self._sample.starts, ends, strict=True):
            of_node = {box for box in boxes[members.start : members.stop] if box is not None}
            held += [reduce(Box.joined, of_node) if of_node else None] * (end - start)
        return held

    def senders(self, name: str) -> tuple[int, float]:
        """How many workers make parts of an output, and how many nodes."""
        boxes = self.cuts[name].boxes
        nodes = [any(boxes[worker] is not None for worker in members) for members in self._sample.members]
        return len(self.cuts[name].workers), max(1.0, float(nodes @ self._sample.nodes))

    def needs(self, name: str) -> list[Box | None]:
        """The box of a tensor that each of these workers reads."""
        needed: list[Box | None] = []
        for local in self.local:
            read = None
            if local is not None:
                for own, box in zip(local.node.inputs, local.reads, strict=True):
                    if own == name and box is not None:
                        read = box if read is None else read.joined(box)
            needed.append(read)
        return needed


def search(graph: Graph, per_node: Sequence[int], costs: Costs, given: Mapping[str, Cut] | None = None) -> CheapestCuts:
    """The cheapest cuts.

    Args:
        graph: in canonical form.
        per_node: how many workers each node of the cluster has; they are numbered by node.
        costs: of nodes and exchanges.
        given: cuts that are wanted; their nodes have no other candidate.
    """
    number = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
    sample = Sample.of(per_node)
    options = []
    for node in graph.nodes:
        wanted = {name: given[name] for name in node.outputs if name and given and name in given}
        complete = wanted and len(wanted) == sum(map(bool, node.outputs))
        choices = [wanted] if complete else candidates(node, graph, per_node)
        options.append([_Option(node, graph, choice, sample, costs) for choice in choices])
    tables = {}
    own = [np.array([option.seconds for option in choices]) for choices in options]
    for i, node in enumerate(graph.nodes):
        for name in dict.fromkeys(node.inputs):
            if name in number:
                tables[number[name], i, name] = _exchange_table(
                    graph.tensors[name], options[number[name]], options[i], sample, costs
                )
            elif name in graph.inputs:
                own[i] = own[i] + [_sent(graph, name, option, sample, costs) for option in options[i]]
    chosen = cheapest(
        [len(choices) for choices in options],
        [((i,), table) for i, table in enumerate(own)] + [((a, b), table) for (a, b, _), table in tables.items()],
    )
    cuts = {name: cut for choices, i in zip(options, chosen, strict=True) for name, cut in choices[i].cuts.items()}
    received = [own[i][k] - options[i][k].seconds for i, k in enumerate(chosen)]
    for (a, b, _), table in tables.items():
        received[b] += table[chosen[a], chosen[b]]
    node_costs = tuple(
        NodeCost(options[i][k].seconds, float(seconds))
        for i, (k, seconds) in enumerate(zip(chosen, received, strict=True))
    )
    back = sum(graph.tensors[name].nbytes for name in graph.outputs)
    return CheapestCuts(cuts, node_costs, costs.coordinator_seconds(back, sum(per_node)))


def _exchange_table(
    tensor: Tensor, makers: list[_Option], readers: list[_Option], sample: Sample, costs: Costs
) -> NDArray[np.float64]:
    """Seconds of the exchange of a tensor for each cut of its node, and each of the node that reads it."""
    name = tensor.name
    need = np.stack([_bounds(option.needs(name), tensor) for option in readers])[None]
    own = np.stack([_bounds(option.held(name), tensor) for option in makers])[:, None]
    neighbors = np.stack([_bounds(option.held_by_nodes(name), tensor) for option in makers])[:, None]
    on_node = _common(need, neighbors)
    within = (on_node - _common(need, own)) * tensor.dtype.itemsize
    between = sample.of_nodes((_common(need, need) - on_node) * tensor.dtype.itemsize)
    workers, nodes = (
        np.array(counts)[:, None] for counts in zip(*(option.senders(name) for option in makers), strict=True)
    )
    return np.maximum(
        costs.within_node.seconds(within.max(-1), sample.total(within), workers),
        costs.between_nodes.seconds(between.max(-1), between @ sample.nodes, nodes),
    )


def _bounds(boxes: Sequence[Box | None], tensor: Tensor) -> NDArray[np.float64]:
    """Start and stop of each axis of each box, (boxes, axes, 2); an empty one for None."""
    empty = ((0, 0),) * len(tensor.shape)
    bounds = [empty if box is None else box.ranges for box in boxes]
    return np.array(bounds, np.float64).reshape(len(boxes), len(tensor.shape), 2)


def _common(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The elements that boxes have in common, from their bounds (…, axes, 2)."""
    extents = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    elements: NDArray[np.float64] = np.maximum(extents, 0).prod(-1)
    return elements


def _sent(graph: Graph, name: str, option: _Option, sample: Sample, costs: Costs) -> float:
    """Seconds in which the coordinator sends an input to those that read it."""
    sizes = np.array([0.0 if box is None else bytes_of(graph, name, box) for box in option.needs(name)])
    return costs.coordinator_seconds(float(sample.total(sizes)), float(sample.total(np.sign(sizes))))
