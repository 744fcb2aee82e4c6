"""A call of a network by the lane of its worker."""

import contextlib
import logging
import math
import select
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np

from groupconv.errors import DeadlineExceededError
from groupconv_server.executors.lanes.connection import LaneConnection
from groupconv_server.executors.lanes.dispatch import GLANCE
from groupconv_server.executors.lanes.flights import WorkerLostError
from groupconv_server.executors.lanes.lane_calls import LaneBrokenError, returning
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.network_dispatch import Attempt, NetworkFlight
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_server.executors.network_states import SECONDS, joined
from groupconv_worker.graph.graph import Tensor, output_arrays
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.messages import NetworkHeader, answer_from, states_from
from groupconv_worker.networks.runner import NetworkCall, NetworkRun, States

log = logging.getLogger(__name__)

T = TypeVar("T")


def by_lane(call: NetworkCall, model: Model, job: Job) -> Attempt:
    """An attempt by the worker's lane; the model is sent only if the worker does not have it."""

    def attempt(slot: WorkerSlot, _: NetworkFlight) -> NetworkRun:
        for data in (None, model.data):
            ran = _exchange(slot, _header(call, job), data, job, partial(_received, call))
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
        _exchange(slot, NetworkHeader(call, task="prepare"), model.data, Job(), lambda *_: None)
    except (WorkerLostError, LaneBrokenError) as error:
        log.warning("worker %s was lost while it prepared network %s: %s", slot.id, network, error)


def states(membership: Membership) -> States:
    """Who answers calls, of the workers that are ready and say it at once."""
    by_worker: list[tuple[str, States]] = []
    header, job = NetworkHeader(NetworkCall("", 0, {}, ()), task="states"), Job(time.monotonic() + SECONDS)
    for slot in membership.ready():
        with contextlib.suppress(WorkerLostError, LaneBrokenError, DeadlineExceededError):
            by_worker.append((slot.id, _exchange(slot, header, None, job, _states) or {}))
    return joined(by_worker)


def _header(call: NetworkCall, job: Job) -> NetworkHeader:
    left = job.left
    inputs = tuple(Tensor(name, array.dtype, array.shape) for name, array in call.inputs.items())
    return NetworkHeader(call, inputs, expires=math.inf if left is None else time.time() + left)


def _exchange(
    slot: WorkerSlot,
    header: NetworkHeader,
    data: bytes | None,
    job: Job,
    read: Callable[[LaneConnection, bytes], T],
) -> T | None:
    """Send a call and read its answer; None if the worker needs the model."""
    lane = slot.lane
    if lane is None:
        raise WorkerLostError("it has no lane")
    try:
        connection = lane.take()
    except OSError as error:
        raise WorkerLostError(f"it accepts no more connections: {error}") from None
    model = np.frombuffer(data or b"", np.uint8)
    try:
        with returning(lane, connection, slot.id):
            connection.send_network(header, model, list(header.call.inputs.values()))
            _wait(connection, job)
            body = connection.answer()
            return read(connection, body) if body else None
    except _OverError:
        job.check()
        raise


class _OverError(Exception):
    """The job is over."""


def _wait(connection: LaneConnection, job: Job) -> None:
    """Wait until an answer comes."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    while not poll.poll(GLANCE * 1e3):
        if job.poll():
            raise _OverError


def _states(_: LaneConnection, body: bytes) -> States:
    return states_from(body)


def _received(call: NetworkCall, connection: LaneConnection, body: bytes) -> NetworkRun:
    ran, outputs = answer_from(body)
    arrays = output_arrays(outputs, call.into)
    connection.receive_arrays(list(arrays.values()))
    return ran._replace(outputs=arrays)
