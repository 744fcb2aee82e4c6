"""Calls of networks through Ray: one worker runs a call, and another one does if that is lost."""

import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from groupconv.errors import GroupconvError, InternalError
from groupconv_server.executors.lanes.dispatch import GLANCE, MAX_LOSSES
from groupconv_server.executors.lanes.flights import NUMBERS, seconds_left
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_server.executors.ray.cluster_membership import ClusterMembership
from groupconv_worker.actor import CONTROL
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import NetworkCall, NetworkRan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkFlight:
    """A call on its way to a worker, as the worker's slot counts it."""

    lane: Lane | None = None
    alone: bool = False
    number: int = field(default_factory=NUMBERS.__next__)


def run(membership: ClusterMembership, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRan]:
    """Run a call on the worker with least to do; again on another one where that is lost.

    Raises:
        DeadlineExceededError, CancelledError: the job was over first.
        GroupconvError: what the worker raised.
        InternalError: too many workers were lost with it.
    """
    inputs = {name: ray.put(array) for name, array in call.inputs.items()}
    slot = membership.any(job.deadline)
    losses = 0
    while True:
        actor, flight = slot.actor, NetworkFlight()
        slot.sent(flight)
        try:
            ran = _attempt(actor, call, inputs, model, job, flight.number)
        except _LostError as lost:
            membership.lost(slot, actor)
            slot.dropped(flight)
            losses += 1
            log.warning("worker %s was lost (%s); a call of network %s runs again", slot.id, lost, call.network)
            if losses >= MAX_LOSSES:
                raise InternalError(
                    f"a call of network {call.network} was given up: {losses} workers were lost"
                ) from None
            slot = membership.any(job.deadline, but=slot)
        except BaseException:
            slot.dropped(flight)
            raise
        else:
            slot.landed(flight)
            for name, array in call.into.items():
                if array.shape == ran.outputs[name].shape:
                    array[...] = ran.outputs[name]
                    ran.outputs[name] = array
            return slot.id, ran


_NO_ELEMENTS = np.empty(0)


class _LostError(Exception):
    """The worker went away with the call."""


def _attempt(actor: Any, call: NetworkCall, inputs: dict[str, Any], model: Model, job: Job, number: int) -> NetworkRan:
    """One worker's answer; the model is sent only if the worker does not have it."""
    bare = replace(call, inputs=dict.fromkeys(inputs, _NO_ELEMENTS), into={}, given={}, planner=None)
    for data in (None, model.data):
        left = seconds_left(job.deadline)
        expires = None if left is None else time.time() + left
        answer = actor.run_network.remote(bare, data, expires, number, *inputs.values())
        try:
            while not ray.wait([answer], timeout=GLANCE)[0]:
                if job.look():
                    actor.drop.options(concurrency_group=CONTROL).remote(number)
                    job.check()
            found: NetworkRan | None = ray.get(answer)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, GroupconvError):
                raise cause from None
            if isinstance(cause, RayError) and not isinstance(cause, RayTaskError):
                raise _LostError(str(cause)) from None
            log.error("a worker failed", exc_info=error)  # noqa: TRY400 - the worker's traceback
            raise InternalError(f"a worker failed: {type(cause).__name__}; see the log") from None
        except RayError as error:
            raise _LostError(str(error).splitlines()[0]) from None
        if found is not None:
            return found
    raise _LostError("it does not keep the model it was sent")


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
