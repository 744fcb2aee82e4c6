"""The cheapest cuts for all nodes of a network together.

The predicted time of a call is the sum of what the input takes to the workers, of each node on the worker that takes
longest, and of each exchange before a node. A node's time depends on its own cut, an exchange on those of both its
ends: so the best choice is found by variable elimination.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groupconv_server.planner.networks.candidates import Candidate, candidates
from groupconv_server.planner.networks.costs import Costs
from groupconv_server.planner.networks.elimination import cheapest
from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.needed.reads import bytes_of
from groupconv_worker.graph.partition.cut import Cut
from groupconv_worker.graph.partition.local import LocalNode
from groupconv_worker.graph.partition.table import local_node

SAMPLE = 9
"""Workers whose parts are looked at, where there are more: the first, the last, and some between."""


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
    """A candidate of a node with the local nodes of some workers."""

    def __init__(self, node: Node, graph: Graph, cuts: Candidate, sample: Sequence[int], costs: Costs) -> None:
        self.cuts = cuts
        known: dict[tuple[Box | None, ...], LocalNode] = {}
        self.local: list[LocalNode | None] = []
        for worker in sample:
            boxes = tuple(cut.boxes[worker] for cut in cuts.values())
            wanted = {name: box for name, box in zip(cuts, boxes, strict=True) if box is not None}
            if wanted and boxes not in known:
                known[boxes] = local_node(node, graph, wanted)
            self.local.append(known[boxes] if wanted else None)
        self.seconds = max(costs.node_seconds(local, graph) for local in known.values())

    def needs(self, name: str) -> list[Box | None]:
        """The box of a tensor that each of these workers reads."""
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
    sample = sorted({round(i * (workers - 1) / (SAMPLE - 1)) for i in range(SAMPLE)})
    options = []
    for node in graph.nodes:
        wanted = {name: given[name] for name in node.outputs if name and given and name in given}
        complete = wanted and len(wanted) == sum(map(bool, node.outputs))
        choices = [wanted] if complete else candidates(node, graph, workers)
        options.append([_Option(node, graph, choice, sample, costs) for choice in choices])
    tables = {}
    own = [np.array([option.seconds for option in choices]) for choices in options]
    for i, node in enumerate(graph.nodes):
        for name in dict.fromkeys(node.inputs):
            if name in number:
                tables[number[name], i, name] = _exchange_table(
                    graph, name, options[number[name]], options[i], sample, costs
                )
            elif name in graph.inputs:
                own[i] = own[i] + [_sent(graph, name, option, costs) for option in options[i]]
    chosen = cheapest(
        [len(choices) for choices in options],
        [((i,), table) for i, table in enumerate(own)] + [((a, b), table) for (a, b, _), table in tables.items()],
    )
    cuts = {name: cut for choices, i in zip(options, chosen, strict=True) for name, cut in choices[i].cuts.items()}
    received = [own[i][k] - options[i][k].seconds for i, k in enumerate(chosen)]
    for (a, b, _), table in tables.items():
        received[b] += table[chosen[a], chosen[b]]
    nodes = tuple(
        NodeCost(options[i][k].seconds, float(seconds))
        for i, (k, seconds) in enumerate(zip(chosen, received, strict=True))
    )
    back = sum(graph.tensors[name].nbytes for name in graph.outputs)
    return Found(cuts, nodes, costs.coordinator_seconds(back, workers))


def _exchange_table(
    graph: Graph, name: str, made: list[_Option], read: list[_Option], sample: Sequence[int], costs: Costs
) -> NDArray[np.float64]:
    """Seconds of the exchange of a tensor for each cut of its node, and each of the node that reads it."""
    tensor = graph.tensors[name]
    cuts = [option.cuts[name] for option in made]
    need = np.stack([_bounds(option.needs(name), tensor) for option in read])[None]
    held = np.stack([_bounds([cut.boxes[worker] for worker in sample], tensor) for cut in cuts])[:, None]
    common = _elements(np.maximum(need[..., 0], held[..., 0]), np.minimum(need[..., 1], held[..., 1]))
    missing = (_elements(need[..., 0], need[..., 1]) - common) * tensor.dtype.itemsize
    most, total = missing.max(-1), missing.mean(-1) * len(cuts[0].boxes)
    return np.array(
        [
            [costs.exchange_seconds(most[i, j], total[i, j], len(cut.workers)) for j in range(len(read))]
            for i, cut in enumerate(cuts)
        ]
    )


def _bounds(boxes: Sequence[Box | None], tensor: Tensor) -> NDArray[np.float64]:
    """Start and stop of each axis of each box, (boxes, axes, 2); an empty one for None."""
    empty = ((0, 0),) * len(tensor.shape)
    bounds = [empty if box is None else box.ranges for box in boxes]
    return np.array(bounds, np.float64).reshape(len(boxes), len(tensor.shape), 2)


def _elements(start: NDArray[np.float64], stop: NDArray[np.float64]) -> NDArray[np.float64]:
    elements: NDArray[np.float64] = np.maximum(stop - start, 0).prod(-1)
    return elements


def _sent(graph: Graph, name: str, option: _Option, costs: Costs) -> float:
    """Seconds in which the coordinator sends an input to those that read it."""
    needs = option.needs(name)
    boxes = [box for box in needs if box is not None]
    scale = len(next(iter(option.cuts.values())).boxes) / len(needs)
    return costs.coordinator_seconds(scale * sum(bytes_of(graph, name, box) for box in boxes), scale * len(boxes))
