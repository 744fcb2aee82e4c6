"""The executor: workers that are Ray actors, and tasks for them."""

import functools
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import ray

from groupconv_server.access.variables import check_ray_token
from groupconv_server.executors.lanes.flights import Carrier
from groupconv_server.executors.lanes.remote import RemoteExecutor
from groupconv_server.executors.placement import Placement, WorkerPlaces
from groupconv_server.executors.ray import network_calls, start
from groupconv_server.executors.ray.calls import RayCarrier
from groupconv_server.executors.ray.cluster_membership import ClusterMembership
from groupconv_server.executors.ray.gang import RayGang
from groupconv_server.executors.ray.lane_manager import LaneManager
from groupconv_worker.actor import CONTROL
from groupconv_worker.engines import create_engine
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.gang import check_cut
from groupconv_worker.networks.runner import NetworkCall, NetworkRun, States
from groupconv_worker.resident import CAPACITY

if TYPE_CHECKING:
    from groupconv_worker.networks.sharding import Sharder

START_TIMEOUT = 120.0
"""Seconds the actors of this machine may take to start."""


class RayExecutor(RemoteExecutor):
    """Workers as Ray actors.

    Args:
        workers: their number; None means one per GPU, and one on each node without GPUs, as nodes come and go.
        threads: CPU threads of each worker; None gives each its share of its node.
        engine: of each worker.
        address: of a running cluster; None starts one on this machine, bound to loopback.
        wait: seconds that workers may take to start; None is START_TIMEOUT on this machine, and without limit in a
            cluster. There those that fit are enough, also none: workers may join at any time.
        capacity: bytes of resident layers' weights each worker keeps prepared.
        placement: the nodes and GPUs of workers; None spreads them.
        hedge: seconds after which a shard without a result is sent to a second worker, too; None never does.
        spares: workers that have started and wait to replace a lost one, on each node without GPUs.

    Raises:
        InvalidArgumentError, FailedPreconditionError: Ray's token is set but empty.
        FailedPreconditionError: the engine cannot run on this machine, and the cluster is this machine.
        UnavailableError: no worker was ready in time.
    """

    name = "ray"
    membership: ClusterMembership

    def __init__(
        self,
        *,
        workers: int | None = None,
        threads: int | None = None,
        engine: str = "auto",
        address: str | None = None,
        wait: float | None = None,
        capacity: int = CAPACITY,
        placement: Placement | None = None,
        hedge: float | None = None,
        spares: int = 0,
    ) -> None:
        check_ray_token()
        self._head: start.Head | None = None
        self._most = 0  # workers that there were at a time
        if address is None:
            create_engine(engine).close()  # fail now, with the reason, if every actor would fail
            self._head = start.Head((workers or 1) * (threads or 1))
        else:
            start.join(address)
        places = WorkerPlaces(placement or Placement(), workers, threads, engine)
        self.lanes = LaneManager()
        super().__init__(ClusterMembership(places, capacity, self.lanes.open, spares), threading.RLock(), hedge)
        if wait is None:
            wait = math.inf if address else START_TIMEOUT
        try:
            self.membership.start(wait, partly=address is not None)
            self.lanes.watch(self.membership)
        except BaseException:
            self.close()
            raise

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """Have `prepare` called with each worker that joins or returns, before it takes shards."""
        self.membership.welcome(prepare)

    def trouble(self) -> str:
        """Why the head does not answer, or workers are missing; empty if nothing is wrong."""
        return self.membership.trouble()

    def prepare_network(self, network: str, version: int, model: Model) -> None:
        """Prepare a network on the first ready worker."""
        network_calls.prepare(self.membership.wait(None)[0], network, version, model)

    def network_states(self) -> States:
        """As of `Executor`, of the workers that are ready."""
        return network_calls.states(self.membership)

    def run_network(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun]:
        """Run a network as a Ray call; arrays travel through Ray's object store."""
        self._jobs.enter(job)
        try:
            self._most = max(self._most, len(self.membership.slots))  # a call is not refused as nodes have gone
            check_cut(call.cut, self._most)
            sharded = self._sharder.run(call, model, job)
            if sharded is not None:
                return sharded
            worker, ran = network_calls.run(self.membership, call, model, job, self._suspicion)
            self._sharder.answered(call, model, ran)
            return worker, ran
        finally:
            self._jobs.leave(job)

    def forget(self, layer: str, version: int) -> None:
        """Have every ready worker drop a layer's version; one that restarts keeps nothing."""
        for slot in self.membership.ready():
            slot.actor.forget.options(concurrency_group=CONTROL).remote(layer, version)
        if "_sharder" in self.__dict__:
            self._sharder.forget(layer, version)

    @functools.cached_property
    def _sharder(self) -> "Sharder":
        """The sharder, which cuts networks over the workers; made with the first call of a network."""
        from groupconv_worker.networks.sharding import Sharder  # with Numba

        return Sharder(
            RayGang(self.membership, self.lanes.key),
            lambda call, model, job: network_calls.run(self.membership, call, model, job, self._suspicion)[1],
        )

    def _carrier(self) -> Carrier:
        return RayCarrier()

    def close(self) -> None:
        """End the actors, and Ray if this process started it."""
        self.interrupt()
        if "_sharder" in self.__dict__:
            self._sharder.close()
        self.lanes.close()
        self.membership.close()
        if self._head is not None:
            self._head.close()
        else:
            ray.shutdown()
