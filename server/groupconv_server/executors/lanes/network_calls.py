"""Calls of networks: one worker runs a call, and another one does if that is lost."""

import itertools
import logging
import math
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from groupconv.errors import GroupconvError, InternalError
from groupconv_server.executors.lanes.connection import LaneConnection
from groupconv_server.executors.lanes.dispatch import GLANCE, MAX_ATTEMPTS, MAX_LOSSES
from groupconv_server.executors.lanes.failures import WorkerError
from groupconv_server.executors.lanes.flights import NUMBERS, SUSPICIOUS, WorkerLostError, seconds_left, take
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.lanes.lane_calls import LaneBrokenError
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_worker.contract import Array
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.messages import NamedArray, NetworkHeader, answer_from
from groupconv_worker.networks.runner import NetworkCall, NetworkRan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkFlight:
    """A call on its way to a worker, as the worker's slot counts it."""

    lane: Lane | None = None
    alone: bool = False
    number: int = field(default_factory=NUMBERS.__next__)


Attempt = Callable[[WorkerSlot, NetworkFlight], NetworkRan]
"""Has one worker run a call; raises WorkerLostError or LaneBrokenError if another one should."""


def run(
    membership: Membership, network: str, job: Job, attempt: Attempt, suspicion: Any, *, lanes: bool = True
) -> tuple[str, NetworkRan]:
    """Run a call on the worker with least to do; again on another one where that is lost.

    Args:
        membership: the workers.
        network: its name, for the log.
        job: that the call is.
        attempt: has one of them run it.
        suspicion: as of `Dispatch`, for calls that may have killed workers.
        lanes: whether it does so by the worker's lane.

    Returns:
        The worker's id, and how it answered.

    Raises:
        DeadlineExceededError, CancelledError: the job was over first.
        GroupconvError: what the worker raised.
        InternalError: too many workers were lost with it.
    """
    slot, losses = membership.any(job.deadline), 0
    for attempts in itertools.count(1):
        alone = losses >= SUSPICIOUS
        if alone:
            take(suspicion, job.deadline)
        actor, flight = slot.actor, NetworkFlight(slot.lane if lanes else None, alone=alone)
        slot.sent(flight)
        try:
            ran = attempt(slot, flight)
        except (WorkerLostError, LaneBrokenError) as lost:
            if isinstance(lost, WorkerLostError):
                membership.lost(slot, actor)
                losses += flight.number in slot.suspects
            slot.dropped(flight)
            log.warning("worker %s was lost (%s); a call of network %s runs again", slot.id, lost, network)
            if losses >= MAX_LOSSES or attempts >= MAX_ATTEMPTS:
                what = f"a call of network {network} was given up"
                raise InternalError(f"{what}: {losses} workers were lost with it, in {attempts} attempts") from None
        except BaseException:
            slot.dropped(flight)
            raise
        else:
            slot.landed(flight)
            return slot.id, ran
        finally:
            if alone:
                suspicion.release()
        slot = membership.any(job.deadline, but=slot)
    raise AssertionError  # the loop ends by itself alone


def by_lane(call: NetworkCall, model: Model, job: Job) -> Attempt:
    """An attempt by the worker's lane; the model is sent only if the worker does not have it."""

    def attempt(slot: WorkerSlot, _: NetworkFlight) -> NetworkRan:
        for data in (None, model.data):
            ran = _exchange(slot, _header(call, job), data, job, call)
            if ran is not None:
                return ran
        raise WorkerLostError("it does not keep the model it was sent")

    return attempt


def prepare(membership: Membership, network: str, version: int, model: Model) -> None:
    """Have the first ready worker prepare a network's version.

    Raises:
        InvalidArgumentError: the runtime refuses the model.
    """
    slot = membership.wait(None)[0]
    call = NetworkCall(network, version, {}, ())
    try:
        _exchange(slot, NetworkHeader(call, prepare=True), model.data, Job(), call)
    except (WorkerLostError, LaneBrokenError) as error:
        log.warning("worker %s was lost while it prepared network %s: %s", slot.id, network, error)


def _header(call: NetworkCall, job: Job) -> NetworkHeader:
    left = seconds_left(job.deadline)
    inputs = tuple(NamedArray.of(name, array) for name, array in call.inputs.items())
    return NetworkHeader(call, inputs, expires=math.inf if left is None else time.time() + left)


def _exchange(
    slot: WorkerSlot, header: NetworkHeader, data: bytes | None, job: Job, call: NetworkCall
) -> NetworkRan | None:
    """Send a call and wait for its answer; None if the worker needs the model."""
    lane = slot.lane
    if lane is None:
        raise WorkerLostError("it has no lane")
    try:
        connection = lane.take()
    except OSError as error:
        raise WorkerLostError(f"it accepts no more connections: {error}") from None
    model = np.frombuffer(data or b"", np.uint8)
    try:
        connection.send_network(header, model, list(call.inputs.values()))
        _wait(connection, job)
        body = connection.answer()
        ran = _received(connection, body, call) if body else None
    except WorkerError as error:
        lane.give(connection)
        log.error("worker %s failed:\n%s", slot.id, error.text)  # noqa: TRY400 - the worker's traceback
        raise InternalError(f"worker {slot.id} failed: {error.name}; see the log") from None
    except _OverError:
        lane.drop(connection)
        job.check()
        raise
    except GroupconvError:
        lane.give(connection)
        raise
    except OSError as error:
        lane.broke(connection)
        if lane.answers():
            raise LaneBrokenError(str(error)) from None
        raise WorkerLostError(f"its lane ended: {error}") from None
    except BaseException:
        lane.drop(connection)
        raise
    lane.give(connection)
    return ran


class _OverError(Exception):
    """The job is over."""


def _wait(connection: LaneConnection, job: Job) -> None:
    """Wait until an answer comes."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    while not poll.poll(GLANCE * 1e3):
        if job.look():
            raise _OverError


def _received(connection: LaneConnection, body: bytes, call: NetworkCall) -> NetworkRan:
    ran, outputs = answer_from(body)
    arrays: list[Array] = []
    for output in outputs:
        given, empty = call.into.get(output.name), output.empty()
        fits = given is not None and (given.shape, given.dtype) == (empty.shape, empty.dtype)
        arrays.append(given if given is not None and fits else empty)
    connection.receive_arrays(arrays)
    return ran._replace(outputs=dict(zip([output.name for output in outputs], arrays, strict=True)))


def filled(ran: NetworkRan, into: Mapping[str, Array]) -> NetworkRan:
    """The same answer with the outputs copied into arrays of the caller, where their shapes are equal."""
    for name, array in into.items():
        if array.shape == ran.outputs[name].shape:
            array[...] = ran.outputs[name]
            ran.outputs[name] = array
    return ran
