"""The base of executors whose workers are other processes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from groupconv.convolution.report import ShardReport
from groupconv.errors import UnavailableError
from groupconv_server.executors.base import WorkerInfo
from groupconv_server.executors.lanes.dispatch import Dispatch
from groupconv_server.executors.lanes.flights import Carrier
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.task import Task
from groupconv_worker.job import Job, Jobs


class RemoteExecutor:
    """Workers in other processes. Subclasses add networks, and what the workers' owner does.

    Args:
        membership: the workers.
        suspicion: see `Dispatch`.
        hedge: see `Dispatch`.

    Attributes:
        membership: as above.
    """

    computes_here = 0
    gpus: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, membership: Membership, suspicion: Any, hedge: float | None) -> None:
        self.membership = membership
        self._suspicion, self._hedge, self._jobs = suspicion, hedge, Jobs()

    def workers(self) -> tuple[str, ...]:
        """Ids of the workers that are ready."""
        return tuple(slot.id for slot in self.membership.ready())

    def wait(self, deadline: float | None) -> tuple[str, ...]:
        """Ids of the workers that are ready, as soon as there is one."""
        return tuple(slot.id for slot in self.membership.wait(deadline))

    def describe(self) -> list[WorkerInfo]:
        """The workers that are ready, for people."""
        return [slot.info() for slot in self.membership.ready()]

    def expect(self, shards: int) -> None:
        """Nothing to do: threads of other processes cannot be woken."""

    def run(
        self,
        tasks: Sequence[Task],
        *,
        job: Job | None = None,
        among: int = 1,  # noqa: ARG002 - each worker counts its own requests
    ) -> list[tuple[ShardReport, ...]]:
        """Run every task on its worker, by its lane if it has one; each result is copied once, into its slice."""
        job = job or Job()
        self._jobs.enter(job)
        try:
            return Dispatch(tasks, job, self.membership, self._suspicion, self._hedge, self._carrier()).run()
        finally:
            self._jobs.leave(job)

    def interrupt(self) -> None:
        """Stop all requests: each notices within `dispatch.GLANCE`, its workers soon after."""
        self._jobs.end(UnavailableError("the server is stopping"))

    def _carrier(self) -> Carrier | None:
        """What takes the shards of one request that do not go by a lane; None if nothing does."""
        return None
