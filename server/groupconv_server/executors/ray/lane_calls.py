"""A shard to a worker and its result back, by its lane: what `calls` does through Ray."""

import logging
import time

from groupconv.errors import DeadlineExceededError, GroupconvError, InternalError
from groupconv_server.executors.base import Task
from groupconv_server.executors.ray.calls import Flight, Inputs, WorkerLostError, seconds_left
from groupconv_server.executors.ray.lanes import Line, WorkerError
from groupconv_server.executors.ray.slots import WorkerSlot
from groupconv_worker.lanes.handshake import PATIENCE
from groupconv_worker.resident import WeightsMissingError
from groupconv_worker.shard import Ran

log = logging.getLogger(__name__)


class Gone:
    """In place of a connection: the worker takes no more."""


class LaneBrokenError(Exception):
    """The connection broke, not the worker: the shard goes to it again, through Ray."""


def launch(
    task: Task,
    slot: WorkerSlot,
    deadline: float | None,
    inputs: Inputs,
    *,
    attempt: int = 1,
    losses: int = 0,
    weights: bool = False,
) -> Flight | None:
    """Send a shard by the worker's lane; None if it has none, or the shard is too large for it."""
    actor = slot.actor
    lane = slot.lane
    if lane is None or not lane.open or _nbytes(task, full=weights) > lane.limit:
        return None
    start, left = time.perf_counter(), seconds_left(deadline)
    expires = None if left is None else time.time() + left
    done: Line | Gone = Gone()
    for _ in range(2):  # one that was idle may have broken; a new one tells whether the worker is there
        try:
            line = lane.take(PATIENCE if left is None else left)
        except OSError:
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceededError("the deadline passed before a worker took the shard") from None
            break
        try:
            line.send(task, expires, full=weights)
        except OSError:
            lane.broke(line)
        except MemoryError as error:
            lane.give(line)
            log.warning("the lane of worker %s has no memory (%s): a shard goes through Ray", slot.id, error)
            return None
        else:
            done = line
            break
    return Flight(task, slot, attempt, losses, actor, start, inputs, done, lane=lane)


def land(flight: Flight) -> tuple[Ran, ...]:
    """Copy a finished shard's result into its slice.

    Raises:
        WorkerLostError, LaneBrokenError, WeightsMissingError: it has to run again.
        GroupconvError: what the worker said.
    """
    lane, line = flight.lane, flight.done
    assert lane is not None
    if isinstance(line, Gone):
        raise WorkerLostError("it takes no more connections")
    try:
        ran: tuple[Ran, ...] | None = line.receive(flight.task.out)
    except WorkerError as error:
        lane.give(line)
        log.error("worker %s failed:\n%s", flight.slot.id, error.text)  # noqa: TRY400 - the worker's traceback
        raise InternalError(f"worker {flight.slot.id} failed: {error.name}; see the log") from None
    except GroupconvError:  # before OSError, which some of them are: the connection is as good as before
        lane.give(line)
        raise
    except OSError as error:
        lane.broke(line)
        if lane.answers():
            raise LaneBrokenError(str(error)) from None
        raise WorkerLostError(f"its lane ended: {error}") from None
    lane.give(line)
    if ran is None:
        raise WeightsMissingError
    return ran


def drop(flight: Flight) -> None:
    """Wait for it no longer; what the worker has not started yet it will not start."""
    if flight.lane is not None and isinstance(flight.done, Line):
        flight.lane.drop(flight.done)


def _nbytes(task: Task, *, full: bool) -> int:
    """Bytes that travel with a shard."""
    weights = sum(s.weight.nbytes for s in task.stages if full or s.key is None)
    return task.x.nbytes + task.out.nbytes + weights
