"""One worker as the executor knows it."""

import enum
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from groupconv_server.executors.base import WorkerInfo
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.placement import WorkerPlace

BACKOFF, LONGEST_BACKOFF = 0.25, 15.0
"""Seconds before a worker that did nothing useful is started again: the first time, doubling, and at most."""


class WorkerState(enum.Enum):
    """The state of a worker; only a ready one gets new shards."""

    AWAY = "away"
    """Lost; its actor will be started again."""
    STARTING = "starting"
    """Its actor has not answered yet."""
    PREPARING = "preparing"
    """It answers; it is measured and receives the resident layers."""
    READY = "ready"
    """It takes shards."""
    DRAINING = "draining"
    """Its node is leaving: it finishes its shards and gets no more."""


class Sent(Protocol):
    """What a slot needs to know of a shard in flight (`flights.Flight`)."""

    @property
    def number(self) -> int:
        """Unique among all flights."""

    @property
    def lane(self) -> Lane | None:
        """The lane that it was sent by; None if through Ray."""

    @property
    def alone(self) -> bool:
        """Whether it is suspected, and so runs while no other such shard does."""


@dataclass(eq=False)
class WorkerSlot:
    """A worker: its place, its present actor, and its state.

    Attributes:
        id: its name in plans and reports.
        place: its node, threads and GPUs.
        actor: Ray's handle; a new one each time it is started.
        ping: Ray's reference to the answer of `describe`, while it starts.
        lane: the coordinator's own connections to that actor's process, once they are open.
        state: see `WorkerState`.
        facts: its answer to `describe`.
        shards, restarts: how many it ran, and how often it was lost.
        ran: shards of this actor, of which only 0 or more matters.
        flights: shards in flight, the oldest first, also those sent through Ray that their requests gave up.
        suspects: numbers of the flights that may be the cause of its last loss.
    """

    id: str
    place: WorkerPlace
    actor: Any = None
    ping: Any = None
    lane: Lane | None = None
    state: WorkerState = WorkerState.AWAY
    facts: dict[str, Any] = field(default_factory=dict)
    shards: int = 0
    restarts: int = 0
    ran: int = 0
    flights: list[Sent] = field(default_factory=list)
    suspects: frozenset[int] = frozenset()
    _useless: int = 0  # actors in a row that ran nothing
    _again: float = 0.0
    _started: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ready(self) -> bool:
        """Whether it takes shards."""
        return self.state is WorkerState.READY

    @property
    def due(self) -> bool:
        """Whether it is away and its pause before the next start is over."""
        return self.state is WorkerState.AWAY and time.monotonic() >= self._again

    @property
    def pause(self) -> float:
        """Seconds until it may be started again."""
        return max(0.0, self._again - time.monotonic())

    @property
    def starting_for(self) -> float:
        """Seconds since its present actor was asked for."""
        return time.monotonic() - self._started

    def info(self) -> WorkerInfo:
        """The worker, for people."""
        node, engine, device, threads = (self.facts[key] for key in ("node", "engine", "device", "threads"))
        lane = self.lane if self.lane is not None and self.lane.open else None
        return WorkerInfo(
            self.id,
            node,
            engine,
            device,
            threads,
            self.shards,
            self.restarts,
            lane="" if lane is None else lane.kind,
            lane_limit=0 if lane is None or math.isinf(lane.limit) else int(lane.limit),
        )

    def started(self, actor: Any, ping: Any = None) -> None:
        """Take a new actor, which starts."""
        self.ran, self._started = 0, time.monotonic()
        self.actor, self.ping, self.state = actor, ping, WorkerState.STARTING

    def reached(self, lane: Lane, actor: Any) -> None:
        """Take a lane, if its actor is still the present one."""
        with self._lock:
            present = self.actor is actor and self.state is not WorkerState.AWAY
            if present:
                self.lane = lane
        if not present:
            lane.close()

    def sent(self, flight: Sent) -> None:
        """A shard was sent to it."""
        with self._lock:
            self.flights.append(flight)

    def landed(self, flight: Sent) -> None:
        """A shard is done. Calls of an actor run in order, so earlier calls that were given up are done as well."""
        with self._lock:
            self.shards += 1
            self.ran += 1
            if flight in self.flights:
                before = self.flights[: self.flights.index(flight)] if flight.lane is None else []
                gone = [flight, *(other for other in before if other.lane is None)]
                self.flights = [other for other in self.flights if other not in gone]

    def dropped(self, flight: Sent) -> None:
        """A shard is no longer waited for."""
        with self._lock:
            if flight in self.flights:
                self.flights.remove(flight)

    def lost(self, actor: Any) -> bool:
        """Its actor was lost; True if it was the present one, so that a loss counts once for all its shards."""
        with self._lock:
            if self.actor is not actor or self.state is WorkerState.AWAY:
                return False
            alone = [flight for flight in self.flights if flight.alone]
            self.suspects = frozenset(flight.number for flight in alone or self.flights)
            self.flights.clear()
            self.restarts += 1
            self._useless = 0 if self.ran else self._useless + 1
            pause = min(LONGEST_BACKOFF, BACKOFF * 2 ** min(self._useless - 1, 10)) if self._useless else 0.0
            self._again = time.monotonic() + pause
            self.state = WorkerState.AWAY
            lane = self.lane
        if lane is not None:
            lane.close()
        return True


def by_node(slots: Sequence[WorkerSlot]) -> list[list[WorkerSlot]]:
    """The workers of each node: neighbors exchange most, and cheapest within a node.

    The node with the most workers is first, as a plan for fewer workers takes the first ones.
    """
    nodes: dict[str, list[WorkerSlot]] = {}
    for slot in slots:
        nodes.setdefault(slot.place.node_id, []).append(slot)
    return sorted(nodes.values(), key=len, reverse=True)
