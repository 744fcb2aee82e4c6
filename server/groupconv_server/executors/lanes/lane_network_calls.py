"""A call of a network by the lane of its worker."""

import logging
import math
import select
import time

import numpy as np

from groupconv_server.executors.lanes.connection import LaneConnection
from groupconv_server.executors.lanes.dispatch import GLANCE
from groupconv_server.executors.lanes.flights import WorkerLostError
from groupconv_server.executors.lanes.lane_calls import LaneBrokenError, returning
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.network_dispatch import Attempt, NetworkFlight
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_worker.graph.graph import Tensor, output_arrays
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.messages import NetworkHeader, answer_from
from groupconv_worker.networks.runner import NetworkCall, NetworkRun

log = logging.getLogger(__name__)


def by_lane(call: NetworkCall, model: Model, job: Job) -> Attempt:
    """An attempt by the worker's lane; the model is sent only if the worker does not have it."""

    def attempt(slot: WorkerSlot, _: NetworkFlight) -> NetworkRun:
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
    left = job.left
    inputs = tuple(Tensor(name, array.dtype, array.shape) for name, array in call.inputs.items())
    return NetworkHeader(call, inputs, expires=math.inf if left is None else time.time() + left)


def _exchange(
    slot: WorkerSlot, header: NetworkHeader, data: bytes | None, job: Job, call: NetworkCall
) -> NetworkRun | None:
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
        with returning(lane, connection, slot.id):
            connection.send_network(header, model, list(call.inputs.values()))
            _wait(connection, job)
            body = connection.answer()
            return _received(connection, body, call) if body else None
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


def _received(connection: LaneConnection, body: bytes, call: NetworkCall) -> NetworkRun:
    ran, outputs = answer_from(body)
    arrays = output_arrays(outputs, call.into)
    connection.receive_arrays(list(arrays.values()))
    return ran._replace(outputs=arrays)
