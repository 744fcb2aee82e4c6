"""Networks on the workers of this process: whole on one of them, or cut over all."""

from collections.abc import Sequence
from typing import Any, Protocol

from groupconv_server.executors.network_states import joined
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.gang import ALONE, UncutError, check_cut
from groupconv_worker.networks.local_gang import LocalGang, Member
from groupconv_worker.networks.runner import NetworkCall, NetworkRun, NetworkRunner, States
from groupconv_worker.networks.sharding import Sharder
from groupconv_worker.runtime import WorkerRuntime


class NetworkWorker(Protocol):
    """A worker of this process.

    Attributes:
        id: its name.
        runtime: its engine and the budget of its threads.
        networks: what runs whole networks on it.
    """

    id: str
    runtime: WorkerRuntime
    networks: NetworkRunner


class LocalNetworks:
    """Runs networks on workers of this process.

    Args:
        workers: all of them.
    """

    def __init__(self, workers: Sequence[NetworkWorker]) -> None:
        self._workers, self._uncut = workers, ""
        self._sharder: Sharder | None = None
        try:
            self._sharder = Sharder(LocalGang(_members(workers)), self._whole)
        except UncutError as why:
            self._uncut = str(why)

    def prepare(self, network: str, version: int, model: Model) -> None:
        """Prepare a network on the first worker; the others do so when they are given a call."""
        self._workers[0].networks.prepare(network, version, lambda: model)

    def run(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun]:
        """Run a call in this thread, over all workers if the network is cut.

        Returns:
            The worker's id, and how the call was answered.

        Raises:
            InvalidArgumentError: as of `check_cut`.
        """
        check_cut(call.cut, 1 if self._sharder is None else len(self._workers), self._uncut)
        sharded = None if self._sharder is None else self._sharder.run(call, model, job)
        if sharded is not None:
            return sharded
        worker = min(self._workers, key=lambda worker: worker.runtime.budget.inside)
        ran = worker.networks.run(call, lambda: model, job)
        if self._sharder is not None:
            self._sharder.answered(call, model, ran)
        return worker.id, ran

    def _whole(self, call: NetworkCall, model: Model, job: Job) -> NetworkRun:
        """Have the first worker run a call."""
        return self._workers[0].networks.run(call, lambda: model, job)

    def states(self) -> States:
        """Who answers calls, of all workers."""
        return joined((worker.id, worker.networks.states()) for worker in self._workers)

    def forget(self, network: str, version: int) -> None:
        """Drop a version."""
        for worker in self._workers:
            worker.networks.forget(network, version)
        if self._sharder is not None:
            self._sharder.forget(network, version)

    def close(self) -> None:
        """Drop what cuts networks."""
        if self._sharder is not None:
            self._sharder.close()


def _members(workers: Sequence[NetworkWorker]) -> list[Member]:
    """What the workers compute their parts on.

    Raises:
        UncutError: they cannot share a network.
    """
    if len(workers) < 2:
        raise UncutError(ALONE)
    engines = [worker.runtime.engine for worker in workers]
    teams = [team for engine in engines if isinstance(team := getattr(engine, "team", None), Team)]
    gpus = [engine.gpu.ordinal for engine in engines if engine.gpu is not None]
    if len(set(gpus)) == len(workers):
        computes: Sequence[Any] = engines
    elif len(gpus) == len(workers):
        raise UncutError("workers share a GPU")
    elif len(teams) == len(workers):
        computes = teams
    else:
        raise UncutError(f"the engine {engines[0].name} has neither threads for programs nor a GPU")
    return [Member(w.id, w.runtime.budget, own) for w, own in zip(workers, computes, strict=True)]
