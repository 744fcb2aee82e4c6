"""The executor: tasks to workers, and again to another one where a worker was lost."""

import logging
import math
import time
from collections.abc import Sequence

import ray

from groupconv.errors import AbortedError, DeadlineExceededError
from groupconv.plan import ShardReport
from groupconv_server.executors.base import Task, WorkerInfo
from groupconv_server.executors.ray import calls, start
from groupconv_server.executors.ray.calls import Flight, WeightsMissingError, WorkerLostError, seconds_left
from groupconv_server.executors.ray.membership import Membership
from groupconv_server.executors.ray.slots import Slot
from groupconv_worker.engines import create_engine
from groupconv_worker.resident import CAPACITY

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""Workers a shard may lose before it is given up as the cause."""
START_TIMEOUT = 120.0
"""Seconds the actors of this machine may take to start."""


class RayExecutor:
    """Workers as Ray actors.

    Args:
        workers: how many; None means one per GPU, else one per node that has CPUs, kept so as nodes come and go.
        threads: CPU threads of each; None gives each its share of its node.
        engine: of each worker.
        address: of a running cluster; None starts one on this machine, bound to loopback.
        wait: seconds to wait for the first worker; None waits START_TIMEOUT on this machine, and for ever in a
            cluster, whose workers join when they please.
        capacity: bytes of resident layers' weights each worker keeps prepared.

    Raises:
        FailedPreconditionError: an engine that cannot run on this machine, where the cluster is this machine.
        UnavailableError: no worker within the time.
    """

    name = "ray"

    def __init__(
        self,
        *,
        workers: int | None = None,
        threads: int | None = None,
        engine: str = "auto",
        address: str | None = None,
        wait: float | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        if address is None:
            create_engine(engine).close()  # refuse here and now what every actor would refuse
            workers = workers or 1
            start.start(workers * (threads or 1))
        else:
            start.join(address)
        self.membership = Membership(workers, threads, engine, capacity)
        if wait is None:
            wait = math.inf if address else START_TIMEOUT
        self.membership.start(wait)

    def workers(self) -> tuple[str, ...]:
        """Ids of the actors that answer."""
        return tuple(slot.id for slot in self.membership.ready())

    def describe(self) -> list[WorkerInfo]:
        """Those actors, for people."""
        return [slot.info() for slot in self.membership.ready()]

    def run(self, tasks: Sequence[Task], *, deadline: float | None) -> list[tuple[ShardReport, ...]]:
        """Every task on its worker's actor; each result is copied once, from the object store into its slice."""
        # A shard on its way is never cancelled: to Ray that is a gap in the actor's sequence of calls, for which it
        # waits 30 s once the actor was restarted. One that comes too late the worker drops by itself.
        first = [self._launch(task, self.membership.get(task.worker, deadline), 1, deadline) for task in tasks]
        flights = {flight.done: flight for flight in first}
        reports: dict[int, tuple[ShardReport, ...]] = {}
        while flights:
            done, _ = ray.wait(list(flights), num_returns=1, timeout=seconds_left(deadline))
            if not done:
                raise DeadlineExceededError("the deadline passed before every shard was done")
            flight = flights.pop(done[0])
            try:
                reports[flight.task.index] = self._land(flight, deadline)
            except WeightsMissingError:
                again = self._launch(flight.task, flight.slot, flight.attempt, deadline, weights=True)
                flights[again.done] = again
            except WorkerLostError as lost:
                again = self._relaunch(flight, lost, deadline)
                flights[again.done] = again
        return [reports[task.index] for task in tasks]

    def forget(self, layer: str, version: int) -> None:
        """Told to every actor that answers; one that restarts has nothing to forget."""
        for slot in self.membership.ready():
            slot.actor.forget.remote(layer, version)

    def close(self) -> None:
        """End the actors, and Ray where this process started it."""
        self.membership.close()
        ray.shutdown()

    def _launch(self, task: Task, slot: Slot, attempt: int, deadline: float | None, *, weights: bool = False) -> Flight:
        return calls.launch(task, slot, attempt, deadline, weights=weights)

    def _land(self, flight: Flight, deadline: float | None) -> tuple[ShardReport, ...]:
        ran = calls.land(flight, deadline)
        self.membership.ran(flight.slot)
        seconds = time.perf_counter() - flight.start
        return flight.task.reports(flight.slot.id, ran, seconds, flight.attempt)

    def _relaunch(self, flight: Flight, lost: WorkerLostError, deadline: float | None) -> Flight:
        """The shard again, on another worker if there is one."""
        log.warning("worker %s was lost (%s); shard %d runs again", flight.slot.id, lost, flight.task.index)
        self.membership.lost(flight.slot)
        if flight.attempt >= MAX_ATTEMPTS:
            raise AbortedError(
                f"shard {flight.task.index} was given up after it lost {flight.attempt} workers: {lost}"
            ) from None
        return self._launch(flight.task, self.membership.any(deadline), flight.attempt + 1, deadline)
