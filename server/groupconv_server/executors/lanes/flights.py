"""A shard in flight, and what can carry it when no lane does."""

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from groupconv.errors import DeadlineExceededError
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_server.executors.task import Task
from groupconv_worker.shard import StageRun

SUSPICIOUS = 2
"""A shard with which so many workers were lost is suspected as the cause."""
NUMBERS = itertools.count()


class WorkerLostError(Exception):
    """The worker was lost before the shard's result came."""


class ShardAttempt(NamedTuple):
    """A try to have a shard computed.

    Attributes:
        task: the shard.
        number: of the try, from 1.
        losses: workers that were lost with the shard before, perhaps because of it.
        weights: whether the weights of resident layers are sent; else the worker asks for those that it lacks.
    """

    task: Task
    number: int = 1
    losses: int = 0
    weights: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A shard in flight.

    Attributes:
        attempt: which try it is.
        slot: the worker that it was sent to.
        actor: of the worker, when the shard was sent.
        start: when it was sent, on the clock of time.perf_counter().
        done: ready when it is over: the lane's connection, or Ray's reference to the report.
        out: Ray's reference to the output; None if it comes by the lane.
        lane: by which it was sent; None if through Ray.
        number: unique among all flights.
    """

    attempt: ShardAttempt
    slot: WorkerSlot
    actor: Any
    start: float
    done: Any
    out: Any = None
    lane: Lane | None = None
    number: int = field(default_factory=NUMBERS.__next__)

    @property
    def task(self) -> Task:
        """The shard."""
        return self.attempt.task

    @property
    def alone(self) -> bool:
        """Whether it is suspected. It then runs while no other such shard does, so that a loss has one cause."""
        return self.attempt.losses >= SUSPICIOUS


class Carrier(Protocol):
    """Takes the shards of one request that do not go by a lane."""

    def launch(self, attempt: ShardAttempt, slot: WorkerSlot, deadline: float | None) -> Flight:
        """Send a shard."""

    def land(self, flight: Flight, deadline: float | None) -> tuple[StageRun, ...]:
        """Copy a finished shard's result into its slice.

        Raises:
            WorkerLostError, WeightsMissingError: the shard has to run again.
            GroupconvError: the worker reported it.
        """

    def drop(self, flight: Flight) -> None:
        """Stop waiting for a shard, and have the worker stop it."""

    def first_done(self, calls: Sequence[Any], seconds: float | None) -> Any:
        """The `done` of the first flight that is over; None if the time passes before."""


def seconds_left(deadline: float | None) -> float | None:
    """Seconds until a deadline on the clock of time.monotonic(); None without one."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def take(suspicion: Any, deadline: float | None) -> None:
    """Take the lock that is held while something runs that may have killed workers (see `Dispatch`).

    Raises:
        DeadlineExceededError: others held it until then.
    """
    left = seconds_left(deadline)
    if not suspicion.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX)):
        raise DeadlineExceededError("the deadline passed before it was started")
