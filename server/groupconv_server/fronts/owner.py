"""The workers that all fronts share, on the supervisor's side: it starts and replaces them, and fronts follow.

The supervisor sends no shards. Each front has lanes of its own to every worker, and reports what it notices: that a
worker was lost, or that it was of use.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from groupconv.errors import UnavailableError
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.worker_slots import WorkerSlot, WorkerState
from groupconv_server.fronts.link import Handler, Link
from groupconv_server.fronts.roster import Roster, WorkerAbout
from groupconv_worker.graph.model import Model, read_model
from groupconv_worker.graph.partition.choice import Cuts
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import NetworkCall, NetworkRun

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks at the workers, unless one comes or goes."""
PRESENT = (WorkerState.PREPARING, WorkerState.READY, WorkerState.DRAINING)
"""States in which fronts have lanes to a worker."""


def _is_there(slot: WorkerSlot) -> bool:
    return slot.state in PRESENT and slot.lane is not None and slot.lane.open


@runtime_checkable
class Workers(Protocol):
    """The starter of the workers: the Ray executor, or worker processes of this server."""

    name: str
    membership: Membership

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """As of `Executor`."""

    def trouble(self) -> str:
        """As of `Executor`."""

    def forget(self, layer: str, version: int) -> None:
        """As of `Executor`."""

    def run_network(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun]:
        """As of `Executor`, of a call that is cut."""

    def close(self) -> None:
        """End them."""


class WorkerOwner:
    """Has all fronts follow the workers.

    Args:
        workers: that they share; ended with this.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers, self.name = workers, workers.name
        self._fronts: dict[int, Link] = {}
        self._starts: dict[WorkerSlot, tuple[Any, int]] = {}
        self._models: dict[tuple[str, int], Model] = {}
        self._lock, self._stopping = threading.RLock(), threading.Event()
        self._roster, self._numbers = Roster(), itertools.count(1)
        workers.membership.busy = self._busy
        workers.welcome(self._prepare)
        self._thread = threading.Thread(target=self._watch, name="workers", daemon=True)
        self._thread.start()

    def handlers(self, index: int, front: Link) -> dict[str, Handler]:
        """The functions that a front may call, by name."""

        def follow() -> Roster:
            with self._lock:
                self._fronts[index] = front
                return self._look()

        return {
            "follow_workers": follow,
            "worker_lost": self._lost,
            "worker_ran": self._ran,
            "forget_version": self._forget,
            "run_cut": self._run_cut,
        }

    def leave(self, index: int) -> None:
        """A front has ended; its lanes have ended with it."""
        with self._lock:
            self._fronts.pop(index, None)

    def engines(self) -> list[str]:
        """The engine of each worker."""
        return [slot.facts["engine"] for slot in self._workers.membership.ready()]

    def close(self) -> None:
        """End the workers."""
        self._stopping.set()
        self._thread.join()
        self._workers.close()

    def _watch(self) -> None:
        sent = self._roster.number
        while not self._stopping.is_set():
            try:
                roster = self._look()
                if roster.number != sent and self._send(roster):
                    sent = roster.number
            except Exception:  # without this thread no front would learn of a lost or new worker
                log.exception("the fronts could not be sent the workers; they are again")
            self._workers.membership.wait_for_change(TICK)

    def _look(self) -> Roster:
        """The workers as they are now: a new roster if anything has changed."""
        with self._lock:
            slots = [slot for slot in list(self._workers.membership.slots) if _is_there(slot)]
            self._starts = {slot: self._start_of(slot) for slot in slots}
            workers, trouble = tuple(self._about(slot) for slot in slots), self._workers.trouble()
            if (workers, trouble) != (self._roster.workers, self._roster.trouble):
                self._roster = Roster(self._roster.number + 1, workers, trouble)
            return self._roster

    def _start_of(self, slot: WorkerSlot) -> tuple[Any, int]:
        actor, start = self._starts.get(slot, (None, 0))
        return (actor, start) if actor is slot.actor else (slot.actor, next(self._numbers))

    def _about(self, slot: WorkerSlot) -> WorkerAbout:
        lane = slot.lane
        assert lane is not None
        start = self._starts[slot][1]
        return WorkerAbout(slot.id, slot.place, slot.facts, slot.restarts, slot.state, start, lane.address, lane.key)

    def _send(self, roster: Roster) -> bool:
        """Send a roster to all fronts; False if one could not follow."""
        with self._lock:
            fronts = list(self._fronts.values())
        followed = True
        for answer in [front.start("workers", roster) for front in fronts]:
            with suppress(UnavailableError):  # the front has gone
                followed = answer.result() and followed
        return followed

    def _prepare(self, worker: str) -> None:
        """Have one front give a worker the layers, before it takes shards of any."""
        self._send(self._look())
        with self._lock:
            fronts = [front for _, front in sorted(self._fronts.items())]
        for front in fronts:
            try:
                front.call("prepare_worker", worker)
            except UnavailableError:
                if front.over:
                    continue
                raise
            return

    def _started(self, worker: str, start: int) -> list[tuple[WorkerSlot, Any]]:
        """The worker that a front means, and its actor; none if it was started again since."""
        with self._lock:
            return [(slot, actor) for slot, (actor, n) in self._starts.items() if (slot.id, n) == (worker, start)]

    def _lost(self, worker: str, start: int) -> None:
        for slot, actor in self._started(worker, start):
            self._workers.membership.lost(slot, actor)

    def _ran(self, worker: str, start: int) -> None:
        for slot, _ in self._started(worker, start):
            slot.ran += 1

    def _busy(self, slot: WorkerSlot) -> bool:
        """Whether a front waits for a shard of a worker that leaves."""
        self._send(self._look())
        with self._lock:
            fronts = list(self._fronts.values())
        answers = [front.start("shards_of", slot.id) for front in fronts]
        busy = bool(slot.flights)
        for answer in answers:
            with suppress(UnavailableError):
                busy = answer.result() > 0 or busy
        return busy

    def _forget(self, name: str, version: int) -> None:
        self._models.pop((name, version), None)
        self._workers.forget(name, version)

    def _run_cut(self, call: NetworkCall, data: bytes | None, deadline: float | None) -> tuple[str, NetworkRun] | None:
        """Run a call as it was planned by a front; None if the model has to be sent."""
        key = call.network, call.version
        model = self._models.get(key)
        if model is None:
            if data is None:
                return None
            model = self._models[key] = read_model(data)
        return self._workers.run_network(replace(call, planner=_as_given), model, Job(deadline))


def _as_given(given: Cuts, _: Sequence[int]) -> Cuts:
    return given
