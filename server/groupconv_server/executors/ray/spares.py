"""Spare workers: actors that have started and wait, so that a lost worker is replaced at once.

A worker takes a second or more to start: Ray, Python, the engine. A spare has done that already. It runs no shards,
has no layers and reserves no CPUs. It takes the place of a worker that is lost on its node, with the same threads and
engine; then another spare is started.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from groupconv_server.executors.placement import Placement, WorkerPlace
from groupconv_worker.actor import CONTROL, Worker

log = logging.getLogger(__name__)


def start_actor(place: WorkerPlace, placement: Placement, capacity: int, *, spare: bool = False) -> Any:
    """Start an actor; returns Ray's handle at once.

    Args:
        place: its node, threads and GPUs.
        placement: settings of the operator.
        capacity: bytes of resident layers' weights it keeps prepared.
        spare: whether it reserves nothing of its node.
    """
    return (
        ray.remote(concurrency_groups={CONTROL: 1})(Worker)
        .options(
            num_cpus=0 if spare else place.cpus,
            num_gpus=place.gpus,
            resources={} if spare else dict(placement.resources),
            max_restarts=0,  # `ClusterMembership` starts a new actor, after a pause if the last one ran nothing
            max_task_retries=0,  # `Dispatch` sends a lost shard to another worker
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node_id, soft=False),
        )
        .remote(place.engine, place.threads, capacity, place.gpus if place.gpus < 1 else None)
    )


class Spare(NamedTuple):
    """A spare worker.

    Attributes:
        place: whose worker it can replace, wherever on the node that is.
        actor: Ray's handle.
    """

    place: WorkerPlace
    actor: Any


class Spares:
    """The spares of a cluster. One thread uses it.

    Args:
        number: of each node and kind of place; workers on GPUs have none, as a spare would hold memory of their GPU.
        placement: settings of the operator.
        capacity: bytes of resident layers' weights that a worker keeps prepared.
    """

    def __init__(self, number: int, placement: Placement, capacity: int) -> None:
        self.number, self._placement, self._capacity = number, placement, capacity
        self._spares: list[Spare] = []

    def __iter__(self) -> Iterator[Spare]:
        return iter(list(self._spares))

    def take(self, place: WorkerPlace) -> Any | None:
        """An actor for a place, which may still be starting; None if there is no spare for it."""
        match = next((spare for spare in self._spares if spare.place == _kind(place)), None)
        if match is None:
            return None
        self._spares.remove(match)
        return match.actor

    def fill(self, places: Sequence[WorkerPlace]) -> None:
        """Start the spares that are missing.

        Args:
            places: of all workers.
        """
        have = Counter(spare.place for spare in self._spares)
        for place in {_kind(place) for place in places if not place.gpus}:
            for _ in range(self.number - have[place]):
                log.debug("a spare worker starts on node %s", place.node_id)
                actor = start_actor(place, self._placement, self._capacity, spare=True)
                self._spares.append(Spare(place, actor))

    def leave(self, nodes: Collection[str] = ()) -> None:
        """End the spares of all nodes but these, by their ids."""
        for spare in [spare for spare in self._spares if spare.place.node_id not in nodes]:
            self._spares.remove(spare)
            ray.kill(spare.actor)


def _kind(place: WorkerPlace) -> WorkerPlace:
    """Places whose workers can replace each other are equal."""
    return replace(place, cpus=0.0)
