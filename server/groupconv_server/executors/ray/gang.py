"""Ray workers as a gang: each runs its part of a network. Those of a node share memory, others have TCP links."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from groupconv.errors import GroupconvError, InternalError, ResourceExhaustedError
from groupconv_server.executors.lanes.dispatch import GLANCE
from groupconv_server.executors.lanes.network_dispatch import NetworkFlight
from groupconv_server.executors.lanes.worker_slots import by_node
from groupconv_server.executors.ray.cluster_membership import ClusterMembership
from groupconv_server.executors.ray.gang_network import RayNetwork, drop_parts, make_network
from groupconv_worker.actor import CONTROL
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.contract import Array
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.job import Job
from groupconv_worker.networks.gang import GangLostError, GangNetwork, Make
from groupconv_worker.networks.runner import NetworkCall, acquire
from groupconv_worker.shard import PartRun

log = logging.getLogger(__name__)

FENCE = 2.0
"""Seconds that workers have to end a run that is over. Memory that one may still write into is not used again."""
NUMBERS = itertools.count(1)
"""Numbers of runs, unique in this process."""


class RayGang:
    """The Ray workers of a coordinator.

    Args:
        membership: the workers.
        key: that the endpoints of the workers know.
    """

    def __init__(self, membership: ClusterMembership, key: bytes) -> None:
        self._membership, self._key = membership, key
        self._order = ThreadBudget()
        self._closed = threading.Event()

    @property
    def idle(self) -> bool:
        """Whether several workers are ready, and none has anything to do."""
        slots = self._membership.ready()
        return len(slots) > 1 and not self._order.inside and not any(slot.flights for slot in slots)

    @property
    def nodes(self) -> tuple[int, ...]:
        """The workers that are ready, by node."""
        return tuple(len(slots) for slots in by_node(self._membership.ready()))

    def prepare(
        self,
        call: NetworkCall,
        model: Model,
        cuts: Sequence[CutChoice],  # noqa: ARG002 - workers compile what is made
        then: Callable[[Make], None],
    ) -> bool:
        """As of `Gang`: workers compile a cut when it is made."""
        then(lambda choice: make_network(self._membership.ready(), self._key, call, model, choice, self._closed))
        return True

    def run(
        self, network: GangNetwork, inputs: Mapping[str, Array], job: Job, into: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Array], Sequence[PartRun]]:
        """As of `Gang`."""
        assert isinstance(network, RayNetwork)
        got = acquire(self._order, job, alone=True)
        try:
            return self._run(network, inputs, job, into or {})
        finally:
            self._order.release(got)

    def drop(self, network: GangNetwork) -> None:
        """Have those that are there drop their parts, with the memory: one that is late may still write into it."""
        assert isinstance(network, RayNetwork)
        drop_parts(network.workers, network.keys)

    def close(self) -> None:
        """Prepare nothing more."""
        self._closed.set()

    def _run(
        self, network: RayNetwork, inputs: Mapping[str, Array], job: Job, into: Mapping[str, Array]
    ) -> tuple[dict[str, Array], list[PartRun]]:
        if any(slot.actor is not actor or not slot.ready for slot, actor in network.workers):
            self.drop(network)
            raise GangLostError("a worker of a network that is cut is away")
        left = job.left
        expires, number = None if left is None else time.time() + left, next(NUMBERS)
        flights = [NetworkFlight() for _ in network.workers]
        arrays = [
            [np.ascontiguousarray(inputs[name][box.slices]) for name, box in part.inputs.items()]
            for part in network.parts
        ]
        brought = [sum(array.nbytes for array in mine) for mine in arrays]
        answers: list[Any] = []
        try:
            for (slot, actor), key, mine, flight in zip(network.workers, network.keys, arrays, flights, strict=True):
                slot.sent(flight)
                answers.append(_sent(actor, key, number, expires, flight.number, *mine))
            results = self._wait(answers, job)
        except BaseException as error:
            lost = self._end(network, flights, answers)
            for (slot, _), flight in zip(network.workers, flights, strict=True):
                slot.dropped(flight)
            if lost or isinstance(error, GangLostError):
                self.drop(network)
                job.check()
                raise GangLostError(f"a worker was lost, or does not answer ({error})") from None
            job.check()
            raise
        for (slot, _), flight in zip(network.workers, flights, strict=True):
            slot.landed(flight)
        return _put_together(network, results, brought, into)

    def _wait(self, answers: Sequence[Any], job: Job) -> list[tuple[list[Array], float]]:
        """The answers of all workers.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            InternalError, GangLostError: a part has no outputs.
        """
        waiting = list(answers)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=GLANCE)
            for failed in filter(None, map(self._failure, done)):
                raise failed
            job.poll()
            job.check()
        results: list[tuple[list[Array], float]] = ray.get(list(answers))
        return results

    def _end(self, network: RayNetwork, flights: Sequence[NetworkFlight], answers: Sequence[Any]) -> bool:
        """End a run on the workers that have it: they may wait for one that has failed, or was sent nothing.

        Returns:
            Whether a worker was lost, or does not end the run in time. Its memory is not used again.
        """
        sent = list(zip(network.workers, flights, answers, strict=False))  # sending may have failed halfway
        for (_, actor), flight, _ in sent:
            actor.drop.options(concurrency_group=CONTROL).remote(flight.number)
        late = ray.wait(list(answers), num_returns=len(answers), timeout=FENCE)[1] if answers else []
        lost = [worker for worker, _, answer in sent if self._is_lost(answer, late)]
        for slot, actor in lost:
            self._membership.lost(slot, actor)
        return bool(late or lost)

    @staticmethod
    def _failure(answer: Any) -> InternalError | None:
        """Why a part has no outputs."""
        try:
            result = ray.get(answer)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, GangLostError):
                return cause
            text = str(cause) if isinstance(cause, GroupconvError) else f"{type(cause).__name__}: {cause}"
            return InternalError(f"a part failed: {text}")
        except RayError as error:
            return GangLostError(str(error).splitlines()[0])
        return None if result is not None else GangLostError("a worker does not have its part")

    @staticmethod
    def _is_lost(answer: Any, late: Sequence[Any]) -> bool:
        """Whether an actor died with its part."""
        if answer in late:
            return False
        try:
            ray.get(answer)
        except RayTaskError:
            return False
        except RayError:
            return True
        return False


def _sent(actor: Any, *arguments: Any) -> Any:
    """Send a part's inputs to its worker; returns Ray's reference to the answer.

    Raises:
        ResourceExhaustedError: they cannot be sent, as the object store is full.
    """
    try:
        return actor.run_part.remote(*arguments)
    except RayError as error:
        raise ResourceExhaustedError(f"a part's inputs could not be sent: {str(error).splitlines()[0]}") from None


def _put_together(
    network: RayNetwork, results: Sequence[tuple[list[Array], float]], brought: Sequence[int], into: Mapping[str, Array]
) -> tuple[dict[str, Array], list[PartRun]]:
    """The outputs from their parts."""
    pieces: dict[str, list[tuple[Any, Array]]] = {}
    runs = []
    for part, (arrays, seconds), inputs in zip(network.parts, results, brought, strict=True):
        for (name, box), array in zip(part.outputs, arrays, strict=True):
            pieces.setdefault(name, []).append((box, array))
        runs.append(PartRun(seconds, inputs + sum(array.nbytes for array in arrays)))
    outputs = {}
    for name, several in pieces.items():
        stops = [max(box.ranges[axis].stop for box, _ in several) for axis in range(several[0][1].ndim)]
        destination = into.get(name)
        fits = destination is not None and (list(destination.shape), destination.dtype) == (stops, several[0][1].dtype)
        whole = destination if destination is not None and fits else np.empty(stops, several[0][1].dtype)
        for box, array in several:
            whole[box.slices] = array
        outputs[name] = whole
    return outputs, runs
