"""The shards of one request: sent to workers, and sent again where a worker was lost or is slow."""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from groupconv.convolution.report import ShardReport
from groupconv.errors import InternalError
from groupconv_server.executors.lanes import lane_calls
from groupconv_server.executors.lanes.flights import SUSPICIOUS, Carrier, Flight, ShardAttempt, WorkerLostError, take
from groupconv_server.executors.lanes.lane_calls import LaneBrokenError
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.waiting import first_done
from groupconv_server.executors.lanes.worker_slots import WorkerSlot, WorkerState
from groupconv_server.executors.task import Task
from groupconv_worker.job import Job
from groupconv_worker.resident import WeightsMissingError

log = logging.getLogger(__name__)

MAX_LOSSES = 4
"""Workers that may be lost with a shard before it is given up as the cause."""
MAX_ATTEMPTS = 16
"""Workers that a shard may be sent to at all; losses that another shard caused count, too."""
GLANCE = 0.05
"""Seconds between two polls of the job."""


class Dispatch:
    """One request. One thread uses it.

    Args:
        tasks: its shards.
        job: the request's deadline and cancellation.
        membership: the workers.
        suspicion: a reentrant lock, held while a shard runs that may have killed workers, so that no other such
            shard runs.
        hedge: seconds after which a shard without a result is sent to a second worker, too; None never does.
        carrier: takes the shards that do not go by a lane; None where there are only lanes.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        job: Job,
        membership: Membership,
        suspicion: Any,
        hedge: float | None,
        carrier: Carrier | None = None,
    ) -> None:
        self._tasks, self._job, self._membership = tasks, job, membership
        self._suspicion, self._hedge, self._carrier = suspicion, hedge, carrier
        self._deadline = job.deadline
        self._flights: dict[object, Flight] = {}
        self._reports: dict[int, tuple[ShardReport, ...]] = {}

    def run(self) -> list[tuple[ShardReport, ...]]:
        """Run every task; each result is copied once, into its slice. Returns the reports of each task's stages.

        Raises:
            DeadlineExceededError, CancelledError, UnavailableError: see `Executor.run`.
            InternalError: a worker failed, or a shard was given up after several workers were lost with it.
        """
        try:
            for task in self._tasks:
                self._send(ShardAttempt(task), self._planned_slot(task))
            while len(self._reports) < len(self._tasks):
                done = first_done(self._flights.values(), min(GLANCE, self._seconds_to_wait()), self._carrier)
                if done is not None:
                    self._complete(self._flights.pop(done))
                elif self._job.poll():
                    self._job.check()
                elif self._hedge is not None:
                    self._send_hedges(self._hedge)
        finally:
            for flight in self._flights.values():
                self._release_suspicion(flight)
                if flight.lane is not None:
                    lane_calls.drop(flight)
                    flight.slot.dropped(flight)
                elif self._carrier is not None:
                    self._carrier.drop(flight)
        return [self._reports[task.index] for task in self._tasks]

    def _planned_slot(self, task: Task) -> WorkerSlot:
        """The worker that a task was planned for; a request of one task takes a less busy one if there is one."""
        planned = self._membership.get(task.worker, self._deadline)
        if len(self._tasks) > 1 or not planned.flights or planned.state is not WorkerState.READY:
            return planned
        return min((planned, *self._membership.ready()), key=lambda slot: len(slot.flights))

    def _send(self, attempt: ShardAttempt, slot: WorkerSlot, *, lane: bool = True) -> None:
        """Send a shard to a worker: by its lane if it has one and `lane` is true, else by the carrier."""
        suspicious = attempt.losses >= SUSPICIOUS
        if suspicious:
            take(self._suspicion, self._deadline)
        try:
            flight, carrier = None, self._carrier
            if lane or carrier is None:
                flight = lane_calls.launch(attempt, slot, self._deadline)
            if flight is None:
                if carrier is None:
                    flight = lane_calls.not_sent(attempt, slot)
                else:
                    flight = carrier.launch(attempt, slot, self._deadline)
        except BaseException:
            if suspicious:
                self._suspicion.release()
            raise
        slot.sent(flight)
        self._flights[flight.done] = flight

    def _release_suspicion(self, flight: Flight) -> None:
        """A flight is over: a suspicious shard of another request may run."""
        if flight.alone:
            self._suspicion.release()

    def _complete(self, flight: Flight) -> None:
        """Take the result of a shard, or send the shard again."""
        attempt, task, slot = flight.attempt, flight.task, flight.slot
        self._release_suspicion(flight)
        if task.index in self._reports:  # its other flight was faster
            lane_calls.drop(flight)
            slot.landed(flight)
            return
        try:
            if flight.lane is None and self._carrier is not None:
                ran = self._carrier.land(flight, self._deadline)
            else:
                ran = lane_calls.land(flight)
        except WeightsMissingError:
            slot.landed(flight)
            self._send(attempt._replace(weights=True), slot)
        except LaneBrokenError as broken:
            log.warning("a connection to worker %s broke (%s)", slot.id, broken)
            slot.dropped(flight)
            if attempt.number >= MAX_ATTEMPTS:
                raise InternalError(f"{_described(task)} was given up: its connections broke") from None
            self._send(ShardAttempt(task, attempt.number + 1, attempt.losses), slot, lane=False)
        except WorkerLostError as lost:
            self._membership.lost(slot, flight.actor)
            slot.dropped(flight)  # it may have been sent after the loss was known
            if not any(other.task.index == task.index for other in self._flights.values()):
                self._send_elsewhere(flight, lost)
        except BaseException:
            slot.dropped(flight)
            raise
        else:
            slot.landed(flight)
            seconds = time.perf_counter() - flight.start
            self._reports[task.index] = task.reports(slot.id, ran, seconds, attempt.number)

    def _send_elsewhere(self, flight: Flight, lost: WorkerLostError) -> None:
        """Send the shard of a lost worker to another one, if there is another."""
        number, losses = flight.attempt.number, flight.attempt.losses + (flight.number in flight.slot.suspects)
        what = _described(flight.task)
        log.warning("worker %s was lost (%s); %s runs again", flight.slot.id, lost, what)
        if losses >= MAX_LOSSES or number >= MAX_ATTEMPTS:
            raise InternalError(f"{what} was given up: {losses} workers were lost with it") from None
        slot = self._membership.any(self._deadline, but=flight.slot)
        self._send(ShardAttempt(flight.task, number + 1, losses), slot)

    def _seconds_to_wait(self) -> float:
        """Seconds until the deadline, or until a shard is late."""
        left = self._job.left
        left = math.inf if left is None else left
        if self._hedge is None:
            return left
        late = min(flight.start for flight in self._flights.values()) + self._hedge - time.perf_counter()
        return min(left, max(0.01, late))

    def _send_hedges(self, hedge: float) -> None:
        """Send each late shard that has not been sent twice to a second worker."""
        twice = {flight.task.index for flight in self._flights.values() if flight.attempt.number > 1}
        limit = time.perf_counter() - hedge
        for flight in list(self._flights.values()):
            if flight.start > limit or flight.task.index in twice:
                continue
            slot = self._membership.any(self._deadline, but=flight.slot)
            if slot is not flight.slot:
                what = _described(flight.task)
                log.info("%s is late on worker %s; it runs on %s, too", what, flight.slot.id, slot.id)
                self._send(ShardAttempt(flight.task, 2, flight.attempt.losses), slot)


def _described(task: Task) -> str:
    """A shard in words: its input and kernel, and its layer."""
    first = task.stages[0]
    g = first.problem.geometry
    layer = "" if first.key is None else f" of layer {first.key.layer} version {first.key.version}"
    return f"shard {task.index}{layer} (input {list(g.input_shape)}, kernel {list(g.weight_shape)})"
