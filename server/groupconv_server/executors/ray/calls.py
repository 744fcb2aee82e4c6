"""A shard as a Ray call: its arrays and its result travel through Ray's object store."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from groupconv.errors import DeadlineExceededError, GroupconvError, InternalError
from groupconv_server.executors.lanes.flights import NUMBERS, Flight, ShardAttempt, WorkerLostError, seconds_left
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_worker.actor import CONTROL
from groupconv_worker.contract import Array
from groupconv_worker.resident import WeightsMissingError
from groupconv_worker.shard import Stage, StageRun

log = logging.getLogger(__name__)

INLINE = 100 * 1024
"""Bytes of an argument up to which Ray sends it with the call."""


class Inputs:
    """The inputs of one request in Ray's object store; an array that several shards read is put there once."""

    def __init__(self) -> None:
        self._put: dict[tuple[Any, ...], Any] = {}

    def of(self, x: Array) -> Any:
        """A reference to `x`, or `x` itself if Ray sends it with the call.

        Args:
            x: a view of the request's input, which does not move while the request runs.
        """
        if x.nbytes <= INLINE:
            return x
        what = (x.__array_interface__["data"][0], x.shape, x.strides, x.dtype)
        if what not in self._put:
            self._put[what] = ray.put(x)
        return self._put[what]


class RayCarrier:
    """The shards of one request as Ray calls."""

    def __init__(self) -> None:
        self._inputs = Inputs()

    def launch(self, attempt: ShardAttempt, slot: WorkerSlot, deadline: float | None) -> Flight:
        """Send a shard."""
        task = attempt.task
        left = seconds_left(deadline)
        expires = None if left is None else time.time() + left
        stages = task.stages if attempt.weights else tuple(map(_without_weights, task.stages))
        actor = slot.actor
        number, start = next(NUMBERS), time.perf_counter()
        out, done = actor.run.options(num_returns=2).remote(stages, self._inputs.of(task.x), expires, number)
        return Flight(attempt, slot, actor, start, done, out, number=number)

    def drop(self, flight: Flight) -> None:
        """Stop waiting for a shard, and have the worker stop it.

        Ray's own `cancel` is not used: it leaves a gap in the actor's sequence of calls, and Ray waits for that call.
        """
        flight.actor.drop.options(concurrency_group=CONTROL).remote(flight.number)

    def first_done(self, calls: Sequence[Any], seconds: float | None) -> Any:
        """The `done` of the first flight that is over; None if the time passes before."""
        done, _ = ray.wait(calls, num_returns=1, timeout=seconds)
        return done[0] if done else None

    def land(self, flight: Flight, deadline: float | None) -> tuple[StageRun, ...]:
        """Copy a finished shard's result into its slice.

        Raises:
            WorkerLostError, WeightsMissingError: the shard has to run again.
            DeadlineExceededError: the result is on another node and did not arrive in time.
            GroupconvError: the worker reported it.
        """
        try:
            ran: tuple[StageRun, ...] | None = ray.get(flight.done)
            if ran is None:
                raise WeightsMissingError
            # Wait until the object is on this node before `get`: a `get` that waits for another node holds Ray's store
            # client, and the puts and gets of all other requests stall behind it in steps of a second.
            if not ray.wait([flight.out], timeout=seconds_left(deadline))[0]:
                raise DeadlineExceededError("the deadline passed before every shard's result was here")
            flight.task.out[...] = ray.get(flight.out)
        except RayError as error:
            raise failure(error, flight.slot.id) from None
        return ran


def failure(error: RayError, worker: str) -> Exception:
    """The exception for a call of an actor that failed, or whose actor was lost."""
    if not isinstance(error, RayTaskError):
        return WorkerLostError(str(error).splitlines()[0])
    cause = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(cause, RayError) and not isinstance(cause, RayTaskError):
        return WorkerLostError(str(cause))
    if isinstance(cause, GroupconvError):
        return cause
    log.error("worker %s failed", worker, exc_info=error)
    return InternalError(f"worker {worker} failed: {type(cause).__name__}; see the log")


_NO_WEIGHTS = np.empty(0)


def _without_weights(stage: Stage) -> Stage:
    return stage if stage.key is None else replace(stage, weight=_NO_WEIGHTS, bias=None)
