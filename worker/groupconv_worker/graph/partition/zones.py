"""Where the boxes that parts of a network exchange lie: every worker derives the same offsets from the same partition.

The workers of a node share memory: a semaphore for each exchange, each on a line of its own, then a zone for each. The
sender fills the zone, then writes the number of the run into the semaphore. The receiver waits for that number. GPUs of
a node need no zone there: each has a landing area in its own memory, with a place for each box that it receives.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.partition.part import RECEIVE, SEND
from groupconv_worker.graph.partition.partition import Partition

LINE = 64
"""Bytes between two semaphores, so that two workers never write the same cache line."""


class Zone(NamedTuple):
    """Where the box of an exchange is, in bytes.

    Attributes:
        semaphore, offset: of the number of the run and the elements, in the memory that the workers of a node share.
        nbytes: of the elements.
        landing: of the elements, in the landing area of the receiver.
    """

    semaphore: int
    offset: int
    nbytes: int
    landing: int = 0


class LandingHandle(NamedTuple):
    """By which another process of this node reaches a landing area.

    Attributes:
        handle: CUDA's, of the allocation that has it.
        size: of the allocation, in bytes.
        offset: of the landing area in it.
    """

    handle: bytes
    size: int
    offset: int


def connected(
    partition: Partition, zone_bytes: Callable[[Tensor, Box], int], **more: Callable[[Tensor], Any]
) -> tuple[list[Graph], int]:
    """The graph of each part, whose nodes that send or receive have a `zones` for each of their boxes.

    Args:
        partition: how the network is cut.
        zone_bytes: of a box of a tensor of the whole network.
        more: further attributes of these nodes, by name, from the tensor of the whole network.

    Returns:
        The graphs, and the bytes of the memory that the workers of a node share.
    """
    places: dict[tuple[str, int, int, Box], Zone] = {}
    end, landing = LINE * len(partition.exchanges), defaultdict[int, int](int)
    for number, e in enumerate(partition.exchanges):
        size = zone_bytes(partition.graph.tensors[e.tensor], e.box)
        places[e.tensor, e.sender, e.receiver, e.box] = Zone(LINE * number, end, size, landing[e.receiver])
        end, landing[e.receiver] = end + size, landing[e.receiver] + size

    def with_zones(node: Node, worker: int) -> Node:
        if node.op not in (SEND, RECEIVE):
            return node
        a, tensor = node.attributes, node.attributes["tensor"]
        ends = [(worker, peer) if node.op == SEND else (peer, worker) for peer in a["peers"]]
        zone_places = tuple(places[tensor, *pair, box] for pair, box in zip(ends, a["boxes"], strict=True))
        details = {name: value(partition.graph.tensors[tensor]) for name, value in more.items()}
        return replace(node, attributes={**a, "zones": zone_places, **details})

    graphs = [
        replace(p.graph, nodes=tuple(with_zones(node, p.worker) for node in p.graph.nodes)) for p in partition.parts
    ]
    return graphs, end


def zones(graph: Graph, op: str) -> Mapping[int, Sequence[Zone]]:
    """The zones that a part sends or receives, by the other worker.

    Args:
        graph: of a part, as `connected` makes it.
        op: `part.SEND`, in the order in which the program packs them, or `part.RECEIVE`.
    """
    by_peer = defaultdict[int, list[Zone]](list)
    for node in graph.nodes:
        if node.op == op:
            for peer, zone in zip(node.attributes["peers"], node.attributes["zones"], strict=True):
                by_peer[peer].append(zone)
    return by_peer


def landing_bytes(graph: Graph) -> int:
    """Bytes of a part's landing area."""
    received = zones(graph, RECEIVE).values()
    return max((zone.landing + zone.nbytes for several in received for zone in several), default=0)
