"""A shard by the lane of its worker."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from groupconv.errors import DeadlineExceededError, GroupconvError, InternalError, ResourceExhaustedError
from groupconv_server.executors.lanes.connection import LaneConnection
from groupconv_server.executors.lanes.failures import WorkerError
from groupconv_server.executors.lanes.flights import Flight, ShardAttempt, WorkerLostError, seconds_left
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_server.executors.task import Task
from groupconv_worker.lanes.handshake import TIMEOUT
from groupconv_worker.resident import WeightsMissingError
from groupconv_worker.shard import StageRun

log = logging.getLogger(__name__)


class NoConnection:
    """In place of a connection: the worker accepts no more."""


class LaneBrokenError(Exception):
    """The connection broke, but the worker is there: the shard is sent to it again, through Ray."""


def launch(attempt: ShardAttempt, slot: WorkerSlot, deadline: float | None) -> Flight | None:
    """Send a shard by the worker's lane; None if there is no lane, or the shard is too large for it."""
    actor, lane = slot.actor, slot.lane
    if lane is None or not lane.open or _nbytes(attempt.task, full=attempt.weights) > lane.limit:
        return None
    start, left = time.perf_counter(), seconds_left(deadline)
    expires = None if left is None else time.time() + left
    done: LaneConnection | NoConnection = NoConnection()
    for _ in range(2):  # an idle connection may have broken; a new one shows whether the worker is there
        try:
            connection = lane.take(TIMEOUT if left is None else left)
        except OSError:
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceededError("the deadline passed before a worker took the shard") from None
            break
        try:
            connection.send(attempt.task, expires, full=attempt.weights)
        except OSError:
            lane.broke(connection)
        except MemoryError as error:
            lane.give(connection)
            log.warning("the lane of worker %s has no memory (%s): a shard goes through Ray", slot.id, error)
            return None
        else:
            done = connection
            break
    return Flight(attempt, slot, actor, start, done, lane=lane)


def not_sent(attempt: ShardAttempt, slot: WorkerSlot) -> Flight:
    """In place of a shard that `launch` did not send, where nothing but a lane can carry it.

    Returns:
        A flight that is over at once, as the worker is not reached.

    Raises:
        ResourceExhaustedError: the lane is open, so it is its shared memory that is missing.
    """
    if slot.lane is None or slot.lane.open:
        raise ResourceExhaustedError(
            f"there is no shared memory for a shard of {_nbytes(attempt.task, full=True)} bytes"
        )
    return Flight(attempt, slot, slot.actor, time.perf_counter(), NoConnection(), lane=slot.lane)


def land(flight: Flight) -> tuple[StageRun, ...]:
    """Copy a finished shard's result into its slice.

    Raises:
        WorkerLostError, LaneBrokenError, WeightsMissingError: the shard has to run again.
        GroupconvError: the worker reported it.
    """
    lane, connection = flight.lane, flight.done
    assert lane is not None
    if isinstance(connection, NoConnection):
        raise WorkerLostError("it accepts no more connections")
    with returning(lane, connection, flight.slot.id):
        ran: tuple[StageRun, ...] | None = connection.receive(flight.task.out)
    if ran is None:
        raise WeightsMissingError
    return ran


@contextmanager
def returning(lane: Lane, connection: LaneConnection, worker: str) -> Iterator[None]:
    """Return a connection to its lane once its answer was received, or close it.

    Raises:
        WorkerLostError, LaneBrokenError: the connection broke.
        InternalError: the worker failed.
        GroupconvError: the worker reported it.
    """
    try:
        yield
    except WorkerError as error:
        lane.give(connection)
        log.error("worker %s failed:\n%s", worker, error.text)  # noqa: TRY400 - the worker's traceback
        raise InternalError(f"worker {worker} failed: {error.name}; see the log") from None
    except GroupconvError:  # before OSError, as some are OSErrors too; the connection is still good
        lane.give(connection)
        raise
    except OSError as error:
        lane.broke(connection)
        if lane.answers():
            raise LaneBrokenError(str(error)) from None
        raise WorkerLostError(f"its lane ended: {error}") from None
    except BaseException:  # what comes next over the connection is not known
        lane.drop(connection)
        raise
    else:
        lane.give(connection)


def drop(flight: Flight) -> None:
    """Stop waiting for a shard. The worker stops it, or does not start it."""
    if flight.lane is not None and isinstance(flight.done, LaneConnection):
        flight.lane.drop(flight.done)


def _nbytes(task: Task, *, full: bool) -> int:
    """Bytes of the arrays of a shard that travel."""
    weights = sum(s.weight.nbytes for s in task.stages if full or s.key is None)
    return task.x.nbytes + task.out.nbytes + weights
