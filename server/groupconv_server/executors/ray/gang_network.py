"""Networks over Ray workers: their parts compiled, and connected by shared memory within a node, by links between."""

import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from groupconv_server.executors.lanes.worker_slots import WorkerSlot, by_node
from groupconv_worker.actor import CONTROL
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.networks.gang import GangLostError, GangNetwork, UncutError
from groupconv_worker.networks.part_info import MODEL_MISSING, PartInfo, PartKey
from groupconv_worker.networks.runner import NetworkCall

POLL = 0.1
"""Seconds between two questions whether a part is compiled."""

Workers = tuple[tuple[WorkerSlot, Any], ...]
"""Each worker's slot, and the actor that has its part."""


@dataclass(frozen=True, eq=False)
class RayNetwork(GangNetwork):
    """A network over Ray workers.

    Attributes:
        workers: each worker's slot, and the actor that has its part.
        keys: of the parts.
        parts: what they are.
    """

    workers: Workers
    keys: tuple[PartKey, ...]
    parts: tuple[PartInfo, ...]


def make_network(
    slots: Sequence[WorkerSlot], key: bytes, call: NetworkCall, model: Model, choice: CutChoice, closed: threading.Event
) -> RayNetwork:
    """Have workers compile their parts of a network, and connect them.

    Args:
        slots: the workers.
        key: that the endpoints of the workers know.
        call: has the network's name and version, and the shapes of the inputs.
        model: of the network.
        choice: how it is cut.
        closed: set when the server stops.

    Raises:
        UncutError: the network cannot be cut so, or not over these workers.
        GangLostError: a worker was lost.
    """
    slots = list(itertools.chain.from_iterable(by_node(slots)))
    if len(slots) < 2:
        raise GangLostError("there is one worker now")
    workers = tuple((slot, slot.actor) for slot in slots)
    shapes = tuple((name, array.shape) for name, array in call.inputs.items())
    first = PartKey(call.network, call.version, shapes, choice.key, len(workers), 0)
    keys = tuple(first._replace(worker=worker) for worker in range(len(workers)))
    try:
        parts = _prepared(workers, keys, choice, model, closed)
        _connect(workers, keys, parts[0], key)
    except RayError as error:
        drop_parts(workers, keys)
        raise GangLostError(f"a worker was lost ({str(error).splitlines()[0]})") from None
    except UncutError:
        drop_parts(workers, keys)
        raise
    return RayNetwork(
        tuple(slot.id for slot in slots),
        tuple(part.nodes for part in parts),
        sum(part.nbytes for part in parts),
        parts[0].exchanges,
        workers,
        keys,
        parts,
    )


def _connect(workers: Workers, keys: Sequence[PartKey], part: PartInfo, secret: bytes) -> None:
    """Have the workers of each node share memory, and open the links between nodes.

    Raises:
        UncutError: that cannot be.
        RayError: a worker was lost.
    """
    nodes = [slot.place.node_id for slot, _ in workers]
    actors = [actor for _, actor in workers]
    firsts = {node: nodes.index(node) for node in nodes}
    shared = ray.get([actors[n].share_part.remote(keys[n]) for n in firsts.values()])
    for refused in (listening for listening in shared if isinstance(listening, str)):
        raise UncutError(refused)
    handles = dict(zip(firsts, shared, strict=True))
    _expect_none(
        actor.open_part.remote(key, handles[node])
        for number, (actor, key, node) in enumerate(zip(actors, keys, nodes, strict=True))
        if number != firsts[node]
    )
    everyone = {(e.sender, e.receiver) for e in part.exchanges}
    if part.direct:
        _reach(actors, keys, {(s, r) for s, r in everyone if nodes[s] == nodes[r]})
    pairs = {(s, r) for s, r in everyone if nodes[s] != nodes[r]}
    receivers = sorted({receiver for _, receiver in pairs})
    listening = ray.get([actors[n].part_address.remote(keys[n], secret) for n in receivers])
    addresses = dict(zip(receivers, listening, strict=True))
    _expect_none(
        actors[n].link_part.remote(keys[n], {r: addresses[r] for s, r in pairs if s == n}, secret)
        for n in sorted({sender for sender, _ in pairs})
    )


def _reach(actors: Sequence[Any], keys: Sequence[PartKey], pairs: set[tuple[int, int]]) -> None:
    """Have senders reach the memory of receivers of their node.

    Raises:
        RayError: a worker was lost.
    """
    receivers = sorted({receiver for _, receiver in pairs})
    exported = dict(zip(receivers, ray.get([actors[n].export_part.remote(keys[n]) for n in receivers]), strict=True))
    ray.get(
        [
            actors[n].reach_part.remote(
                keys[n], {r: exported[r] for s, r in pairs if s == n and exported[r] is not None}
            )
            for n in sorted({sender for sender, _ in pairs})
        ]
    )


def _prepared(
    workers: Workers, keys: Sequence[PartKey], choice: CutChoice, model: Model, closed: threading.Event
) -> tuple[PartInfo, ...]:
    """What the workers report of their parts, once all have compiled them."""
    data: list[bytes | None] = [None] * len(workers)
    while not closed.wait(POLL):
        answers = [
            actor.prepare_part.remote(key, choice, sent)
            for (_, actor), key, sent in zip(workers, keys, data, strict=True)
        ]
        prepared: list[PartInfo | str | None] = ray.get(answers)
        data = [model.data if answer == MODEL_MISSING else None for answer in prepared]
        for answer in prepared:
            if isinstance(answer, str) and answer != MODEL_MISSING:
                raise UncutError(answer)
        infos = tuple(answer for answer in prepared if isinstance(answer, PartInfo))
        if len(infos) == len(workers):
            if len(kinds := sorted({info.kind for info in infos})) > 1:
                raise UncutError(f"workers do not exchange boxes with each other: {', '.join(kinds)}")
            return infos
    raise UncutError("the server is stopping")


def drop_parts(workers: Workers, keys: Sequence[PartKey]) -> None:
    """Have the workers that are there drop their parts."""
    for (slot, actor), key in zip(workers, keys, strict=True):
        if slot.actor is actor:
            actor.drop_part.options(concurrency_group=CONTROL).remote(key)


def _expect_none(refusals: Iterable[Any]) -> None:
    """Raise UncutError with the first of the reasons that workers give."""
    for refused in filter(None, ray.get(list(refusals))):
        raise UncutError(refused)
