"""The executor: tasks to workers, and again to another one where a worker was lost or is slow."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import ray

from groupconv.convolution.plan import ShardReport
from groupconv.errors import DeadlineExceededError, InternalError, UnavailableError
from groupconv_server.access.variables import check_ray_token
from groupconv_server.executors.base import Task, WorkerInfo
from groupconv_server.executors.placement import Placement, WorkerPlaces
from groupconv_server.executors.ray import calls, lane_calls, network_calls, start
from groupconv_server.executors.ray.calls import (
    SUSPICIOUS,
    Flight,
    Inputs,
    WorkerLostError,
    seconds_left,
)
from groupconv_server.executors.ray.keeper import Keeper
from groupconv_server.executors.ray.lane_calls import LaneBrokenError
from groupconv_server.executors.ray.membership import Membership
from groupconv_server.executors.ray.slots import WorkerSlot, WorkerState
from groupconv_server.executors.ray.waiting import first_done
from groupconv_worker.actor import CONTROL
from groupconv_worker.engines import create_engine
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.runner import NetworkCall, NetworkRan
from groupconv_worker.job import Job, Jobs
from groupconv_worker.resident import CAPACITY, WeightsMissingError

log = logging.getLogger(__name__)

MAX_LOSSES = 4
"""Workers that may be lost with a shard before it is given up as the cause."""
MAX_ATTEMPTS = 16
"""Workers it may be sent to at all: those that were lost with another shard as the cause count too."""
START_TIMEOUT = 120.0
"""Seconds the actors of this machine may take to start."""
GLANCE = 0.05
"""Seconds between two looks whether a job is over."""


class RayExecutor:
    """Workers as Ray actors.

    Args:
        workers: how many; None means one per GPU, and one on each node that has CPUs alone, kept so as nodes come and
            go.
        threads: CPU threads of each; None gives each its share of its node.
        engine: of each worker.
        address: of a running cluster; None starts one on this machine, bound to loopback.
        wait: seconds to wait for the first worker; None waits START_TIMEOUT on this machine, and for ever in a
            cluster, whose workers join when they please.
        capacity: bytes of resident layers' weights each worker keeps prepared.
        placement: where workers go; None spreads them.
        hedge: seconds after which a shard that has not come back is sent to another worker too; None never does.

    Raises:
        InvalidArgumentError, FailedPreconditionError: a token of Ray's that is set but empty.
        FailedPreconditionError: an engine that cannot run on this machine, where the cluster is this machine.
        UnavailableError: no worker within the time.
    """

    name = "ray"
    computes_here = 0
    gpu = None

    def __init__(
        self,
        *,
        workers: int | None = None,
        threads: int | None = None,
        engine: str = "auto",
        address: str | None = None,
        wait: float | None = None,
        capacity: int = CAPACITY,
        placement: Placement | None = None,
        hedge: float | None = None,
    ) -> None:
        check_ray_token()
        self._head: start.Head | None = None
        self._jobs = Jobs()
        self._hedge = hedge
        self._suspicion = threading.RLock()  # held by the request whose suspicious shards run
        if address is None:
            create_engine(engine).close()  # refuse here and now what every actor would refuse
            self._head = start.Head((workers or 1) * (threads or 1))
        else:
            start.join(address)
        places = WorkerPlaces(placement or Placement(), workers, threads, engine)
        self.lanes = Keeper()
        self.membership = Membership(places, capacity, self.lanes.open)
        if wait is None:
            wait = math.inf if address else START_TIMEOUT
        try:
            self.membership.start(wait)
            self.lanes.watch(self.membership)
        except BaseException:
            self.close()
            raise

    def workers(self) -> tuple[str, ...]:
        """Ids of the actors that answer."""
        return tuple(slot.id for slot in self.membership.ready())

    def wait(self, deadline: float | None) -> tuple[str, ...]:
        """The same, as soon as there is one."""
        return tuple(slot.id for slot in self.membership.wait(deadline))

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """Each worker that joins, or returns, is prepared first."""
        self.membership.welcome(prepare)

    def trouble(self) -> str:
        """Of the cluster's head, or workers that are not there."""
        return self.membership.trouble()

    def describe(self) -> list[WorkerInfo]:
        """Those actors, for people."""
        return [slot.info() for slot in self.membership.ready()]

    def expect(self, shards: int) -> None:
        """Its workers wait for nothing."""

    def run(
        self,
        tasks: Sequence[Task],
        *,
        job: Job | None = None,
        among: int = 1,  # noqa: ARG002 - a worker elsewhere counts those that come there
    ) -> list[tuple[ShardReport, ...]]:
        """Every task on its worker, by its lane if it has one; each result is copied once, into its slice."""
        job = job or Job()
        self._jobs.enter(job)
        try:
            return self._run(tasks, job)
        finally:
            self._jobs.leave(job)

    def _run(self, tasks: Sequence[Task], job: Job) -> list[tuple[ShardReport, ...]]:
        inputs, deadline = Inputs(), job.deadline
        flights: dict[object, Flight] = {}
        reports: dict[int, tuple[ShardReport, ...]] = {}
        try:
            for task in tasks:
                flight = self._launch(task, self._slot(task, tasks, deadline), deadline, inputs)
                flights[flight.done] = flight
            while len(reports) < len(tasks):
                done = first_done(flights.values(), min(GLANCE, self._until(flights, deadline)))
                if done is not None:
                    again = self._landed(flights.pop(done), flights, reports, deadline)
                elif job.look():
                    job.check()
                else:
                    again = [] if self._hedge is None else self._hedged(flights, deadline)
                flights |= {flight.done: flight for flight in again}
        finally:
            for flight in flights.values():
                self._cleared(flight)
                if flight.lane is not None:
                    lane_calls.drop(flight)
                    flight.slot.dropped(flight)
                else:
                    calls.drop(flight)
        return [reports[task.index] for task in tasks]

    def prepare_network(self, network: str, version: int, model: Model) -> None:
        """On the first worker that is there."""
        network_calls.prepare(self.membership.wait(None)[0], network, version, model)

    def run_network(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRan]:
        """As a Ray call; arrays travel through Ray's object store."""
        self._jobs.enter(job)
        try:
            return network_calls.run(self.membership, call, model, job)
        finally:
            self._jobs.leave(job)

    def forget(self, layer: str, version: int) -> None:
        """Told to every actor that answers; one that restarts has nothing to forget."""
        for slot in self.membership.ready():
            slot.actor.forget.options(concurrency_group=CONTROL).remote(layer, version)

    def interrupt(self) -> None:
        """Requests end at their next `GLANCE`, and what workers do for them soon after."""
        self._jobs.end(UnavailableError("the server is stopping"))

    def close(self) -> None:
        """End the actors, and Ray where this process started it."""
        self.interrupt()
        self.lanes.close()
        self.membership.close()
        if self._head is not None:
            self._head.close()
        else:
            ray.shutdown()

    def _slot(self, task: Task, tasks: Sequence[Task], deadline: float | None) -> WorkerSlot:
        """The worker that a task was planned for, or if nothing else was planned, one with less to do."""
        planned = self.membership.get(task.worker, deadline)
        if len(tasks) > 1 or not planned.flights or planned.state is not WorkerState.READY:
            return planned
        return min((planned, *self.membership.ready()), key=lambda slot: len(slot.flights))

    def _launch(
        self,
        task: Task,
        slot: WorkerSlot,
        deadline: float | None,
        inputs: Inputs,
        *,
        attempt: int = 1,
        losses: int = 0,
        weights: bool = False,
        lane: bool = True,
    ) -> Flight:
        ways = (lane_calls.launch, calls.launch) if lane else (calls.launch,)
        sent = (way(task, slot, deadline, inputs, attempt=attempt, losses=losses, weights=weights) for way in ways)
        if losses >= SUSPICIOUS and not self._suspicion.acquire(timeout=_seconds(deadline)):
            raise DeadlineExceededError("the deadline passed before the shard was started")
        try:
            flight = next(flight for flight in sent if flight is not None)
        except BaseException:
            if losses >= SUSPICIOUS:
                self._suspicion.release()
            raise
        slot.sent(flight)
        return flight

    def _cleared(self, flight: Flight) -> None:
        """A flight is over: another request's suspicious shard may run."""
        if flight.alone:
            self._suspicion.release()

    def _landed(
        self,
        flight: Flight,
        others: dict[object, Flight],
        reports: dict[int, tuple[ShardReport, ...]],
        deadline: float | None,
    ) -> list[Flight]:
        """A shard came back: its report, or the flights that it takes to bring it back after all."""
        task, slot = flight.task, flight.slot
        self._cleared(flight)
        if task.index in reports:  # its other flight was faster
            lane_calls.drop(flight)
            slot.landed(flight)
            return []
        try:
            ran = calls.land(flight, deadline) if flight.lane is None else lane_calls.land(flight)
        except WeightsMissingError:
            slot.landed(flight)
            return [
                self._launch(
                    task, slot, deadline, flight.inputs, attempt=flight.attempt, losses=flight.losses, weights=True
                )
            ]
        except LaneBrokenError as broken:
            log.warning("a connection to worker %s broke (%s)", slot.id, broken)
            slot.dropped(flight)
            return [
                self._launch(
                    task, slot, deadline, flight.inputs, attempt=flight.attempt + 1, losses=flight.losses, lane=False
                )
            ]
        except WorkerLostError as lost:
            self.membership.lost(slot, flight.actor)
            slot.dropped(flight)  # it may have been sent after the loss was known
            twin = any(other.task.index == task.index for other in others.values())
            return [] if twin else [self._again(flight, lost, deadline)]
        except BaseException:
            slot.dropped(flight)
            raise
        slot.landed(flight)
        seconds = time.perf_counter() - flight.start
        reports[task.index] = task.reports(slot.id, ran, seconds, flight.attempt)
        return []

    def _again(self, flight: Flight, lost: WorkerLostError, deadline: float | None) -> Flight:
        """The shard of a worker that was lost, on another one if there is one."""
        losses = flight.losses + (flight.number in flight.slot.suspects)
        what = described(flight.task)
        log.warning("worker %s was lost (%s); %s runs again", flight.slot.id, lost, what)
        if losses >= MAX_LOSSES or flight.attempt >= MAX_ATTEMPTS:
            raise InternalError(f"{what} was given up: {losses} workers were lost with it") from None
        slot = self.membership.any(deadline, but=flight.slot)
        return self._launch(flight.task, slot, deadline, flight.inputs, attempt=flight.attempt + 1, losses=losses)

    def _until(self, flights: dict[object, Flight], deadline: float | None) -> float:
        """Seconds to wait for a shard to come back: until the deadline, or until one is late."""
        left = seconds_left(deadline)
        left = math.inf if left is None else left
        if self._hedge is None:
            return left
        late = min(flight.start for flight in flights.values()) + self._hedge - time.perf_counter()
        return min(left, max(0.01, late))

    def _hedged(self, flights: dict[object, Flight], deadline: float | None) -> list[Flight]:
        """For each shard that is late and has not been sent twice, a second flight to another worker."""
        twice = {f.task.index for f in flights.values() if f.attempt > 1}
        limit, again = time.perf_counter() - (self._hedge or math.inf), []
        for flight in list(flights.values()):
            if flight.start > limit or flight.task.index in twice:
                continue
            slot = self.membership.any(deadline, but=flight.slot)
            if slot is not flight.slot:
                log.info("%s is late on worker %s; it runs on %s too", described(flight.task), flight.slot.id, slot.id)
                again.append(self._launch(flight.task, slot, deadline, flight.inputs, attempt=2, losses=flight.losses))
        return again


def _seconds(deadline: float | None) -> float:
    left = seconds_left(deadline)
    return -1 if left is None else min(left, threading.TIMEOUT_MAX)


def described(task: Task) -> str:
    """A shard in words: what it computes, and of which layer."""
    first = task.stages[0]
    g = first.problem.geometry
    layer = "" if first.key is None else f" of layer {first.key.layer} version {first.key.version}"
    return f"shard {task.index}{layer} (input {list(g.input_shape)}, kernel {list(g.weight_shape)})"
