"""The executor of a process that did not start the workers: everything goes to them by lanes."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from groupconv.convolution.report import ShardReport
from groupconv.errors import UnavailableError
from groupconv_server.executors.base import WorkerInfo
from groupconv_server.executors.lanes import network_calls
from groupconv_server.executors.lanes.dispatch import Dispatch
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.task import Task
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job, Jobs
from groupconv_worker.networks.runner import WHOLE, NetworkCall, NetworkRan, check_cut


class Owner(Protocol):
    """The process that has started the workers."""

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """Have `prepare` called with a worker that joins or returns, before it takes shards of any process."""

    def trouble(self) -> str:
        """Why there are fewer workers than there should be; empty if all are there."""

    def forget(self, layer: str, version: int) -> None:
        """Have every worker drop a version."""

    def run_cut(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRan]:
        """Run a network that is cut over several workers."""


class LaneExecutor:
    """Workers of another process.

    Args:
        name: of the executor that has started them, for people.
        members: the workers, each with its lane.
        owner: the process that has started them.
        suspicion: see `Dispatch`.
        hedge: see `Dispatch`.
    """

    computes_here = 0
    gpus: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, name: str, members: Membership, owner: Owner, suspicion: Any, hedge: float | None) -> None:
        self.name, self._members, self._owner = name, members, owner
        self._suspicion, self._hedge, self._jobs = suspicion, hedge, Jobs()

    def workers(self) -> tuple[str, ...]:
        """Ids of the workers that are ready."""
        return tuple(slot.id for slot in self._members.ready())

    def wait(self, deadline: float | None) -> tuple[str, ...]:
        """Ids of the workers that are ready, as soon as there is one."""
        return tuple(slot.id for slot in self._members.wait(deadline))

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """Offer to prepare workers that join. The owner asks one process."""
        self._owner.welcome(prepare)

    def trouble(self) -> str:
        """As of the owner."""
        return self._owner.trouble()

    def describe(self) -> list[WorkerInfo]:
        """The workers that are ready, for people."""
        return [slot.info() for slot in self._members.ready()]

    def expect(self, shards: int) -> None:
        """Nothing to do: threads of other processes cannot be woken."""

    def run(
        self,
        tasks: Sequence[Task],
        *,
        job: Job | None = None,
        among: int = 1,  # noqa: ARG002 - each worker counts its own requests
    ) -> list[tuple[ShardReport, ...]]:
        """Run every task on its worker, by its lane; each result is copied once, into its slice."""
        job = job or Job()
        self._jobs.enter(job)
        try:
            return Dispatch(tasks, job, self._members, self._suspicion, self._hedge).run()
        finally:
            self._jobs.leave(job)

    def prepare_network(self, network: str, version: int, model: Model) -> None:
        """Prepare a network on the first ready worker."""
        network_calls.prepare(self._members, network, version, model)

    def run_network(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRan]:
        """Run a network on the worker with least to do; the owner runs one that is to be cut."""
        self._jobs.enter(job)
        try:
            check_cut(call.cut, len(self._members.slots))
            if call.cut not in ("", WHOLE):
                return self._owner.run_cut(call, model, job)
            attempt = network_calls.by_lane(call, model, job)
            return network_calls.run(self._members, call.network, job, attempt, self._suspicion)
        finally:
            self._jobs.leave(job)

    def forget(self, layer: str, version: int) -> None:
        """Have every worker drop a version; the last process that does so counts."""
        self._owner.forget(layer, version)

    def interrupt(self) -> None:
        """Stop all requests: each notices within `dispatch.GLANCE`, its workers soon after."""
        self._jobs.end(UnavailableError("the server is stopping"))

    def close(self) -> None:
        """Close the lanes."""
        self.interrupt()
        self._members.close()
