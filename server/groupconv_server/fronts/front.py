"""A front: one of the processes that take requests."""

import functools
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupconv.errors import GroupconvError, UnavailableError, UnimplementedError
from groupconv_server.access.rates import Allowance, CallerLimits
from groupconv_server.access.tokens import Tokens
from groupconv_server.admission.gate import Gate
from groupconv_server.config import Config
from groupconv_server.coordinator.batching import Batcher
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.limits import Limits
from groupconv_server.executors import Executor
from groupconv_server.executors.lanes.executor import LaneExecutor
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.fronts.child import LogSettings, set_up
from groupconv_server.fronts.counters import Counters
from groupconv_server.fronts.layers import SharedLayers, SharedNetworks, SharedRepository
from groupconv_server.fronts.limits import (
    Allowances,
    SharedAllowance,
    SharedBudget,
    SharedGate,
    SharedLock,
    SharedThreads,
)
from groupconv_server.fronts.link import Link
from groupconv_server.fronts.regions import FrontMemory
from groupconv_server.fronts.replica import Replica
from groupconv_server.fronts.roster import FrontWorkers
from groupconv_server.fronts.status import FrontCluster, FrontStatistics, Key, sum_sizes
from groupconv_server.health import Health
from groupconv_server.inference.statistics import Record
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.repository import Repository
from groupconv_server.layers.store import LayerStore
from groupconv_server.layers.version import Usage, Version
from groupconv_server.memory.cuda_memory import CudaMemory
from groupconv_server.memory.shared_memory import SharedMemory
from groupconv_server.networks.networks import Networks
from groupconv_server.overtime import OVERTIME, end_at_the_latest
from groupconv_server.parts import Parts
from groupconv_server.server import Server
from groupconv_server.servicers.cluster import ClusterServicer
from groupconv_server.streaming.budget import Budget
from groupconv_server.telemetry import traces

ORPHANED = 0.25
"""Seconds that running requests have once the supervisor is lost: the next server may want the port."""


@dataclass(frozen=True)
class Start:
    """What a front is started with.

    Attributes:
        index: of the front.
        processes: how many there are.
        config: of the server, with the port that all listen on.
        workers: name of the executor whose workers all fronts share; None has each front compute.
        logs: format and level of its log; None leaves logging as it is.
    """

    index: int
    processes: int
    config: Config
    workers: str | None = None
    logs: LogSettings | None = None


class FrontParts(Parts):
    """The parts of a front. What must be one is the supervisor's, or in shared memory.

    Args:
        start: what the front was started with.
        supervisor: the link to it.
        counters, allowances: shared with the other fronts.
    """

    shares_port = True

    def __init__(self, start: Start, supervisor: Link, counters: Counters, allowances: Allowances) -> None:
        super().__init__(start.config)
        self.processes = start.processes
        self._start, self._supervisor, self._counters, self._allowances = start, supervisor, counters, allowances
        self.replica = Replica(counters)
        self.cluster_servicer: FrontCluster
        self.model_statistics = FrontStatistics(supervisor)
        self.regions: dict[str, FrontMemory] = {}

    def store(self) -> LayerStore | None:
        """None: the supervisor has the folder."""
        return None

    def executor(self) -> Executor:
        """The workers that all fronts share, or an engine of this process, which shares the threads of the machine."""
        config, start = self.config, self._start
        if start.workers is not None:
            members = FrontWorkers(self._supervisor, start.processes)
            suspicion = SharedLock(self._counters.handle)
            return LaneExecutor(start.workers, members, members, suspicion, config.hedge)
        return LocalExecutor(
            workers=1,
            threads=config.threads or len(os.sched_getaffinity(0)),
            engine=config.engine,
            capacity=config.layer_bytes,
            first=start.index,
            budget=functools.partial(SharedThreads, processes=start.processes, counters=self._counters),
        )

    def gate(self) -> Gate:
        """The limits of requests of all fronts."""
        config = self.config
        return SharedGate(config.concurrency, config.queue, config.queue_bytes, self._counters)

    def tokens(self, path: Path) -> Tokens:
        """The tokens of callers that are admitted, whose limits hold for all fronts together."""
        return Tokens(path, self._allowance)

    def layers(self, forget: Callable[[str, int], None], used: Callable[[str, bool, float], None]) -> Layers:
        """The layers and networks of all fronts."""
        return SharedLayers(
            forget,
            replica=self.replica,
            supervisor=self._supervisor,
            counters=self._counters,
            capacity=self.config.layer_bytes,
            used=used,
        )

    def repository(self, layers: Layers, store: LayerStore | None, coordinator: Coordinator) -> Repository:  # noqa: ARG002 - None
        """Loads and unloads layers for all fronts."""
        assert isinstance(layers, SharedLayers)
        return SharedRepository(layers, coordinator, self.replica, self._supervisor)

    def networks(self, layers: Layers, executor: Executor, store: LayerStore | None) -> Networks:  # noqa: ARG002 - None
        """Loads and unloads networks for all fronts."""
        assert isinstance(layers, SharedLayers)
        return SharedNetworks(layers, executor, self.config.limits, self.replica, self._supervisor)

    def shared_memory(self, kind: str) -> SharedMemory:
        """The regions of all fronts."""
        self.regions[kind] = FrontMemory(kind, self.replica, self._supervisor)
        return self.regions[kind]

    def device_memory(self, *, clients: bool) -> CudaMemory:  # noqa: ARG002 - both tables stay empty
        """A table that stays empty: a GPU's memory is mapped by one process."""
        return NoDeviceMemory()

    def streams(self, limits: Limits) -> Budget:
        """The memory of the streams of all fronts."""
        return SharedBudget(limits.streams_bytes, self._counters)

    def statistics(self) -> FrontStatistics:
        """Counts of all fronts."""
        return self.model_statistics

    def batch_sizes(self, batcher: Batcher) -> Callable[[str, int], Mapping[int, int]]:
        """Sizes of batches at all fronts."""
        self.batcher = batcher

        def sizes(name: str, version: int) -> Mapping[int, int]:
            try:
                return sum_sizes(self._supervisor.call("gather", "sizes", name, version))
            except UnavailableError:  # the supervisor does not answer
                return batcher.sizes(name, version)

        return sizes

    def cluster(self, coordinator: Coordinator, layers: Layers, health: Health) -> ClusterServicer:
        """Reports the state of all fronts."""
        self.cluster_servicer = FrontCluster(
            coordinator,
            layers,
            health,
            index=self._start.index,
            port=self.config.port,
            supervisor=self._supervisor,
        )
        return self.cluster_servicer

    def join(self) -> None:
        """Take what is loaded and registered, and every change from now on."""
        self._supervisor.call("join")

    def _allowance(self, name: str, rates: CallerLimits) -> Allowance:
        if rates == CallerLimits():
            return Allowance(name, rates)
        return SharedAllowance(name, rates, self._allowances, self._supervisor.call("allowance", name, rates))


class NoDeviceMemory(CudaMemory):
    """Refuses the memory of GPUs."""

    def register(self, name: str, handle: bytes, device: int, size: int, *, owner: str) -> None:  # noqa: ARG002
        """Refuse it."""
        raise _no_devices()

    def adopt(self, handle: bytes, uuid: bytes, size: int, *, owner: str) -> str:  # noqa: ARG002
        """Refuse it."""
        raise _no_devices()


def _no_devices() -> UnimplementedError:
    return UnimplementedError("memory of GPUs cannot be registered with a server of several processes (--processes)")


def run(end: socket.socket, start: Start, counters: Any, allowances: Any) -> None:
    """The main function of a front's process: serve until the supervisor ends it, or has gone.

    Args:
        end: of the link to the supervisor.
        start: what it is started with.
        counters: the descriptor of their memory, as `multiprocessing.reduction.DupFd`.
        allowances: the same for these.
    """
    link, over = set_up(end, start.logs)
    traces.configure()
    parts = FrontParts(
        start,
        link,
        Counters(start.processes, start.index, counters.detach()),
        Allowances(start.processes, start.index, allowances.detach()),
    )
    replica = parts.replica
    link.handlers |= {
        "stage": replica.stage,
        "drop": replica.drop,
        "commit": replica.commit,
        "commit_removal": replica.commit_removal,
        "catch_up": replica.catch_up,
    }
    try:
        server = Server(start.config, parts=parts)
    except GroupconvError as error:
        link.call("failed", error)
        return
    grace = 0.0
    try:
        link.handlers |= _handlers(server, parts)
        link.call("ready", [worker.engine for worker in server.executor.describe()], server.web_url)
        over.wait()
        grace = ORPHANED if link.over else start.config.grace
        end_at_the_latest(grace + OVERTIME)
    finally:
        server.stop(grace)
    traces.flush()
    link.close()


def _handlers(server: Server, parts: FrontParts) -> dict[str, Callable[..., Any]]:
    """The functions that the supervisor may call in a front that serves, by name."""

    def usages() -> dict[Key, Usage]:
        return {(v.name, v.version): v.usage for v in server.layers.all(Version)}

    def statistics(keys: set[Key]) -> dict[Key, Record]:
        return parts.model_statistics.here([v for v in server.layers.all(Version) if (v.name, v.version) in keys])

    return {
        "cluster": parts.cluster_servicer.here,
        "usages": usages,
        "statistics": statistics,
        "sizes": parts.batcher.sizes,
        "metrics": lambda: list(server.metrics.registry.collect()),
        "uses": lambda kind: parts.regions[kind].uses(),
        "health": server.health.state,
        "reload": server.reload,
        "compile_catalogue": server.background.compile_catalogue,
        "wait_for_background": server.background.wait,
    }
