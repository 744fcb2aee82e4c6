"""A shard to a worker and its result back, as a Ray call: arrays travel through Ray's object store."""

import itertools
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from groupconv.errors import DeadlineExceededError, GroupconvError, InternalError
from groupconv_server.executors.base import Task
from groupconv_server.executors.ray.lanes import Lane
from groupconv_server.executors.ray.slots import WorkerSlot
from groupconv_worker.actor import CONTROL
from groupconv_worker.contract import Array
from groupconv_worker.resident import WeightsMissingError
from groupconv_worker.shard import Ran, Stage

log = logging.getLogger(__name__)


INLINE = 100 * 1024
"""Bytes of an argument up to which Ray sends it with the call."""


SUSPICIOUS = 2
"""Losses from which on a shard is taken to be the cause, unless it shows that it is not."""
NUMBERS = itertools.count()


class WorkerLostError(Exception):
    """The worker went away with the shard."""


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A shard on its way.

    Attributes:
        task: what runs.
        slot: where.
        attempt: counted from 1.
        losses: workers that were lost with it, perhaps by its fault.
        actor: the worker's at that moment.
        start: when it was sent, on the clock of time.perf_counter().
        done: what tells that it is over: the actor's answer to come, or a connection of the worker's lane.
        out: the output to come; None where it comes over the lane.
        inputs: of its request.
        lane: by which it went; None if through Ray.
        number: of all flights.
    """

    task: Task
    slot: WorkerSlot
    attempt: int
    losses: int
    actor: Any
    start: float
    inputs: "Inputs"
    done: Any
    out: Any = None
    lane: Lane | None = None
    number: int = field(default_factory=NUMBERS.__next__)

    @property
    def alone(self) -> bool:
        """Whether it is under suspicion, and runs while no other such shard does, to be told from those beside it."""
        return self.losses >= SUSPICIOUS


class Inputs:
    """The inputs of one request as objects: what several shards read alike is put into the store once."""

    def __init__(self) -> None:
        self._put: dict[tuple[Any, ...], Any] = {}

    def of(self, x: Array) -> Any:
        """A reference to `x`; itself where Ray sends it with the call.

        Args:
            x: a view of the request's input, which stays where it is while the request runs.
        """
        if x.nbytes <= INLINE:
            return x
        what = (x.__array_interface__["data"][0], x.shape, x.strides, x.dtype)
        if what not in self._put:
            self._put[what] = ray.put(x)
        return self._put[what]


def launch(
    task: Task,
    slot: WorkerSlot,
    deadline: float | None,
    inputs: Inputs,
    *,
    attempt: int = 1,
    losses: int = 0,
    weights: bool = False,
) -> Flight:
    """Send a shard; without `weights` those of resident layers stay here unless the worker asks for them."""
    left = seconds_left(deadline)
    expires = None if left is None else time.time() + left
    stages = task.stages if weights else tuple(map(_without_weights, task.stages))
    actor = slot.actor
    number = next(NUMBERS)
    out, done = actor.run.options(num_returns=2).remote(stages, inputs.of(task.x), expires, number)
    return Flight(task, slot, attempt, losses, actor, time.perf_counter(), inputs, done, out, number=number)


def drop(flight: Flight) -> None:
    """Wait for it no longer; what the worker is doing for it ends.

    Never by Ray's own cancelling: to Ray that is a gap in the actor's sequence of calls, for which it waits.
    """
    flight.actor.drop.options(concurrency_group=CONTROL).remote(flight.number)


def land(flight: Flight, deadline: float | None) -> tuple[Ran, ...]:
    """Copy a finished shard's result into its slice.

    Raises:
        WorkerLostError, WeightsMissingError: it has to run again.
        DeadlineExceededError: the result is elsewhere and did not come in time.
        GroupconvError: what the worker said.
    """
    try:
        ran: tuple[Ran, ...] | None = ray.get(flight.done)
        if ran is None:
            raise WeightsMissingError
        # First brought here, then got: a `get` that waits for another node's object holds Ray's store client, and
        # the puts and gets of all other requests stall behind it in steps of a second.
        if not ray.wait([flight.out], timeout=seconds_left(deadline))[0]:
            raise DeadlineExceededError("the deadline passed before every shard's result was here")
        flight.task.out[...] = ray.get(flight.out)
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, RayError) and not isinstance(cause, RayTaskError):
            raise WorkerLostError(str(cause)) from None
        if isinstance(cause, GroupconvError):
            raise cause from None
        log.error("worker %s failed", flight.slot.id, exc_info=error)  # noqa: TRY400 - the worker's traceback
        raise InternalError(f"worker {flight.slot.id} failed: {type(cause).__name__}; see the log") from None
    except (RayError, GetTimeoutError) as error:
        raise WorkerLostError(str(error).splitlines()[0]) from None
    return ran


_NO_WEIGHTS = np.empty(0)


def _without_weights(stage: Stage) -> Stage:
    return stage if stage.key is None else replace(stage, weight=_NO_WEIGHTS, bias=None)


def seconds_left(deadline: float | None) -> float | None:
    """Until a deadline on the clock of time.monotonic()."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
