"""The executor of a process that did not start the workers: everything goes to them by lanes."""

from collections.abc import Callable
from typing import Any, Protocol

from groupconv_server.executors.lanes import lane_network_calls, network_dispatch
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.remote import RemoteExecutor
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.gang import check_cut
from groupconv_worker.networks.runner import WHOLE, NetworkCall, NetworkRun, States


class Owner(Protocol):
    """The process that has started the workers."""

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """Have `prepare` called with a worker that joins or returns, before it takes shards of any process."""

    def trouble(self) -> str:
        """Why there are fewer workers than there should be; empty if all are there."""

    def forget(self, layer: str, version: int) -> None:
        """Have every worker drop a version."""

    def run_cut(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun]:
        """Run a network that is cut over several workers."""


class LaneExecutor(RemoteExecutor):
    """Workers of another process.

    Args:
        name: of the executor that has started them, for people.
        members: the workers, each with its lane.
        owner: the process that has started them.
        suspicion: see `Dispatch`.
        hedge: see `Dispatch`.
    """

    def __init__(self, name: str, members: Membership, owner: Owner, suspicion: Any, hedge: float | None) -> None:
        super().__init__(members, suspicion, hedge)
        self.name, self._owner = name, owner

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """Offer to prepare workers that join. The owner asks one process."""
        self._owner.welcome(prepare)

    def trouble(self) -> str:
        """As of the owner."""
        return self._owner.trouble()

    def prepare_network(self, network: str, version: int, model: Model) -> None:
        """Prepare a network on the first ready worker."""
        lane_network_calls.prepare(self.membership, network, version, model)

    def network_states(self) -> States:
        """As of `Executor`, of the workers that are ready."""
        return lane_network_calls.states(self.membership)

    def run_network(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun]:
        """Run a network on the worker with least to do; the owner runs one that is to be cut."""
        self._jobs.enter(job)
        try:
            check_cut(call.cut, len(self.membership.slots))
            if call.cut not in ("", WHOLE):
                return self._owner.run_cut(call, model, job)
            attempt = lane_network_calls.by_lane(call, model, job)
            return network_dispatch.run(self.membership, call.network, job, attempt, self._suspicion)
        finally:
            self._jobs.leave(job)

    def forget(self, layer: str, version: int) -> None:
        """Have every worker drop a version; the last process that does so counts."""
        self._owner.forget(layer, version)

    def close(self) -> None:
        """Close the lanes."""
        self.interrupt()
        self.membership.close()
