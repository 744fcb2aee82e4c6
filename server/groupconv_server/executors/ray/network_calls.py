"""Calls of networks through Ray."""

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from groupconv.errors import GroupconvError, InternalError
from groupconv_server.executors.lanes import network_dispatch
from groupconv_server.executors.lanes.dispatch import GLANCE
from groupconv_server.executors.lanes.flights import WorkerLostError
from groupconv_server.executors.lanes.network_dispatch import NetworkFlight
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_server.executors.network_states import SECONDS, joined
from groupconv_server.executors.ray.calls import failure
from groupconv_server.executors.ray.cluster_membership import ClusterMembership
from groupconv_worker.actor import CONTROL
from groupconv_worker.contract import Array
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import NetworkCall, NetworkRun, States

log = logging.getLogger(__name__)


def run(
    membership: ClusterMembership, call: NetworkCall, model: Model, job: Job, suspicion: Any
) -> tuple[str, NetworkRun]:
    """Run a call; see `network_dispatch.run`. Its inputs are put into Ray's object store once."""
    inputs = {name: ray.put(array) for name, array in call.inputs.items()}

    def attempt(slot: WorkerSlot, flight: NetworkFlight) -> NetworkRun:
        return _attempt(slot, call, inputs, model, job, flight.number)

    worker, ran = network_dispatch.run(membership, call.network, job, attempt, suspicion, lanes=False)
    return worker, _filled(ran, call.into)


def states(membership: ClusterMembership) -> States:
    """Who answers calls, of the workers that are ready and say it at once."""
    asked = {
        slot.actor.network_states.options(concurrency_group=CONTROL).remote(): slot.id for slot in membership.ready()
    }
    if not asked:
        return {}
    answers, _ = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS)
    by_worker: list[tuple[str, States]] = []
    for answer in answers:
        with contextlib.suppress(RayError):  # the worker is lost
            by_worker.append((asked[answer], ray.get(answer)))
    return joined(by_worker)


def _filled(ran: NetworkRun, into: Mapping[str, Array]) -> NetworkRun:
    """The same answer with the outputs copied into arrays of the caller, where their shapes are equal."""
    for name, array in into.items():
        if array.shape == ran.outputs[name].shape:
            array[...] = ran.outputs[name]
            ran.outputs[name] = array
    return ran


_NO_ELEMENTS = np.empty(0)


def _attempt(
    slot: WorkerSlot, call: NetworkCall, inputs: dict[str, Any], model: Model, job: Job, number: int
) -> NetworkRun:
    """One worker's answer; the model is sent only if the worker does not have it."""
    actor = slot.actor
    bare = replace(call, inputs=dict.fromkeys(inputs, _NO_ELEMENTS), into={}, given={}, planner=None)
    for data in (None, model.data):
        left = job.left
        expires = None if left is None else time.time() + left
        answer = actor.run_network.remote(bare, data, expires, number, *inputs.values())
        try:
            while not ray.wait([answer], timeout=GLANCE)[0]:
                if job.poll():
                    actor.drop.options(concurrency_group=CONTROL).remote(number)
                    job.check()
            ran: NetworkRun | None = ray.get(answer)
        except RayError as error:
            raise failure(error, slot.id) from None
        if ran is not None:
            return ran
    raise WorkerLostError("it does not keep the model it was sent")


def prepare(slot: WorkerSlot, network: str, version: int, model: Model) -> None:
    """Have a worker prepare a network's version.

    Raises:
        InvalidArgumentError: the runtime refuses the model.
    """
    try:
        ray.get(slot.actor.prepare_network.remote(network, version, model.data))
    except RayTaskError as error:
        if isinstance(error.cause, GroupconvError):
            raise error.cause from None
        raise InternalError(f"worker {slot.id} could not prepare network {network}") from None
    except RayError as error:
        log.warning("worker %s was lost while it prepared network %s: %s", slot.id, network, error)
