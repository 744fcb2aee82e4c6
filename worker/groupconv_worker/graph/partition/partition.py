"""From cuts of a graph's tensors to what each worker computes, and what it sends to whom."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import accumulate

from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.needed.reads import bytes_of
from groupconv_worker.graph.partition.cut import Cut
from groupconv_worker.graph.partition.local import LocalNode
from groupconv_worker.graph.partition.part import Incoming, Part, PartBuilder
from groupconv_worker.graph.partition.table import local_node


@dataclass(frozen=True, slots=True)
class Exchange:
    """A box of a tensor that one worker sends to another.

    Attributes:
        tensor: its name in the whole graph.
        box: of the whole tensor.
        sender, receiver: workers.
        nbytes: of the box.
    """

    tensor: str
    box: Box
    sender: int
    receiver: int
    nbytes: int


@dataclass(frozen=True)
class Partition:
    """A network over several workers.

    Attributes:
        graph: the whole.
        cuts: of each tensor that a node makes.
        parts: what each worker computes.
        exchanges: what workers send to one another, in the order of the graph's nodes.
        outputs: for each output of the graph, the boxes that make it, each with its worker.
    """

    graph: Graph
    cuts: Mapping[str, Cut]
    parts: tuple[Part, ...]
    exchanges: tuple[Exchange, ...]
    outputs: Mapping[str, tuple[tuple[int, Box], ...]]

    @cached_property
    def exchanged_bytes(self) -> Mapping[str, int]:
        """Bytes that workers send to one another, by tensor."""
        by_tensor: dict[str, int] = defaultdict(int)
        for exchange in self.exchanges:
            by_tensor[exchange.tensor] += exchange.nbytes
        return dict(by_tensor)


def partition(graph: Graph, cuts: Mapping[str, Cut], workers: int) -> Partition:
    """Derive what each worker computes, and what crosses.

    Args:
        graph: bound, or in canonical form.
        cuts: of each tensor that a node makes. A worker may need more than its part, which it is sent.
        workers: how many; each cut has a box for each.

    Raises:
        ValueError: the boxes of a cut do not make all of a tensor that is needed.
    """
    nodes = [_local_nodes(graph, cuts, worker) for worker in range(workers)]
    needs = [_needs(graph, local_nodes, worker) for worker, local_nodes in enumerate(nodes)]
    incoming = [_incoming(graph, cuts, needs[worker], worker) for worker in range(workers)]
    outgoing: list[dict[str, list[tuple[int, Box]]]] = [defaultdict(list) for _ in range(workers)]
    exchanges = []
    for name in (name for node in graph.nodes for name in node.outputs):
        for worker in range(workers):
            for sender, box in incoming[worker][name].pieces if name in incoming[worker] else ():
                outgoing[sender][name].append((worker, box))
                exchanges.append(Exchange(name, box, sender, worker, bytes_of(graph, name, box)))
    outputs = {}
    for name in graph.outputs:
        outputs[name] = tuple(_sources(graph, cuts, name, [Box.whole(graph.tensors[name].shape)], 0))
    parts = []
    for worker, local_nodes in enumerate(nodes):
        builder = PartBuilder(graph, cuts, worker, needs[worker], incoming[worker], outgoing[worker])
        for local in local_nodes:
            builder.add(local)
        parts.append(builder.part([name for name, pieces in outputs.items() if any(w == worker for w, _ in pieces)]))
    return Partition(graph, dict(cuts), tuple(parts), tuple(exchanges), outputs)


def _local_nodes(graph: Graph, cuts: Mapping[str, Cut], worker: int) -> list[LocalNode]:
    """The nodes that a worker runs, in order."""
    local_nodes = []
    for node in graph.nodes:
        boxes = {name: cuts[name].boxes[worker] for name in node.outputs if name}
        wanted = {name: box for name, box in boxes.items() if box is not None}
        if wanted:
            local_nodes.append(local_node(node, graph, wanted))
    return local_nodes


def _needs(graph: Graph, nodes: Iterable[LocalNode], worker: int) -> dict[str, list[Box]]:
    """The boxes that a worker reads of each tensor."""
    needs: dict[str, list[Box]] = defaultdict(list)
    for local in nodes:
        for name, box in zip(local.node.inputs, local.reads, strict=True):
            if box is not None:
                needs[name].append(box)
    for name in graph.outputs:
        if name not in graph.makers and worker == 0:  # an input or a constant
            needs[name].append(Box.whole(graph.tensors[name].shape))
    return needs


def traffic(graph: Graph, cuts: Mapping[str, Cut], nodes: Sequence[int]) -> tuple[dict[str, int], int, int]:
    """What crosses, without saying who sends it: cheaper than a partition.

    Args:
        graph: bound, or in canonical form.
        cuts: of each tensor that a node makes, which cover it.
        nodes: how many workers each node has; they are numbered by node.

    Returns:
        Bytes that workers send to one another, by tensor; those of them that cross between nodes; and bytes of the
        inputs that workers are sent.
    """
    sent: dict[str, int] = defaultdict(int)
    between = input_bytes = 0
    ends = list(accumulate(nodes))
    for worker in range(ends[-1]):
        node = bisect(ends, worker)
        neighbors = range(ends[node] - nodes[node], ends[node])
        needs = _needs(graph, _local_nodes(graph, cuts, worker), worker)
        for name, box in _beyond(graph, cuts, needs, worker).items():
            whole = bytes_of(graph, name, box)
            sent[name] += whole - _held_bytes(graph, cuts, name, box, (worker,))
            between += whole - _held_bytes(graph, cuts, name, box, neighbors)
        for name in graph.inputs:
            if name in needs:
                input_bytes += bytes_of(graph, name, reduce(Box.joined, needs[name]))
    return dict(sent), between, input_bytes


def _held_bytes(graph: Graph, cuts: Mapping[str, Cut], name: str, box: Box, workers: Iterable[int]) -> int:
    """Bytes of a box that some workers make; their boxes are disjoint or the same."""
    held = {cuts[name].boxes[worker] for worker in workers}
    common = [box.common(part) for part in held if part is not None]
    return sum(bytes_of(graph, name, part) for part in common if part is not None)


def _beyond(graph: Graph, cuts: Mapping[str, Cut], needs: Mapping[str, list[Box]], worker: int) -> dict[str, Box]:
    """The tensors of which a worker needs more than it makes: all that it needs beyond its part as one box."""
    found = {}
    for name, boxes in needs.items():
        if name not in graph.makers:
            continue
        own = cuts[name].boxes[worker]
        if beyond := [box for box in boxes if own is None or not box.within(own)]:
            found[name] = reduce(Box.joined, beyond)
    return found


def _incoming(
    graph: Graph, cuts: Mapping[str, Cut], needs: Mapping[str, list[Box]], worker: int
) -> dict[str, Incoming]:
    """The same with the workers that send each part."""
    by_tensor = {}
    for name, box in _beyond(graph, cuts, needs, worker).items():
        own = cuts[name].boxes[worker]
        missing = [box] if own is None else box.without(own)
        by_tensor[name] = Incoming(box, tuple(_sources(graph, cuts, name, missing, worker)))
    return by_tensor


def _sources(
    graph: Graph, cuts: Mapping[str, Cut], name: str, missing: list[Box], receiver: int
) -> Iterable[tuple[int, Box]]:
    """Which worker sends which part of the missing boxes: the nearest one that makes it."""
    if name not in graph.makers:
        return [(0, box) for box in missing]
    boxes = cuts[name].boxes
    sources = []
    for worker in sorted(range(len(boxes)), key=lambda w: (abs(w - receiver), w)):
        if not missing:
            break
        held, rest = boxes[worker], []
        for box in missing:
            common = None if held is None else box.common(held)
            if common is None or held is None:
                rest.append(box)
            else:
                sources.append((worker, common))
                rest += box.without(held)
        missing = rest
    if missing:
        raise ValueError(f"no worker makes {missing[0].shape} of {name!r}: the boxes of its cut do not cover it")
    return sources
