"""The state of all fronts as that of one server."""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence

import grpc
import psutil

from groupconv.errors import UnavailableError
from groupconv.v1 import cluster_pb2
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.fronts.link import Link
from groupconv_server.health import DEGRADED, NOT_SERVING, SERVING, Health
from groupconv_server.inference.statistics import ModelStatistics, Record
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.version import Usage, Version
from groupconv_server.servicers.cluster import ClusterServicer

Status = cluster_pb2.GetClusterResponse
Key = tuple[str, int]
"""Name and version of a layer or network."""


class FrontCluster(ClusterServicer):
    """Reports the state of all fronts.

    Args:
        coordinator, layers, health: of this front.
        index: of this front.
        port: that clients are connected to.
        supervisor: collects from all fronts.
    """

    def __init__(
        self, coordinator: Coordinator, layers: Layers, health: Health, *, index: int, port: int, supervisor: Link
    ) -> None:
        super().__init__(coordinator, layers, health)
        self._index, self._port, self._supervisor = index, port, supervisor

    def GetCluster(  # noqa: N802 - the RPC's name
        self, request: cluster_pb2.GetClusterRequest, context: grpc.ServicerContext
    ) -> Status:
        """Report the state of all; that of this front alone while the supervisor does not answer."""
        try:
            found = [Status.FromString(raw) for raw in self._supervisor.call("gather", "cluster")]
            restarts: Mapping[int, int] = self._supervisor.call("restarts")
        except UnavailableError as error:
            alone = Status.FromString(self.here())
            if alone.state == SERVING:
                alone.state = DEGRADED
            alone.trouble = str(error)
            return alone
        merged = merge(found or [super().GetCluster(request, context)])
        for process in merged.processes:
            process.restarts = restarts.get(process.index, 0)
        missing = len(restarts) - len(found)
        if missing > 0 and found:
            merged.state = DEGRADED if merged.state == SERVING else merged.state
            merged.trouble = merged.trouble or f"{missing} of {len(restarts)} processes do not answer"
        return merged

    def here(self) -> bytes:
        """The state of this front, for another one."""
        status = super().GetCluster(cluster_pb2.GetClusterRequest(), None)  # type: ignore[arg-type] # it is not used
        process = status.processes.add(index=self._index, pid=os.getpid())
        for name in ("requests", "running", "uptime_seconds", "cpu_seconds", "resident_bytes"):
            setattr(process, name, getattr(status, name))
        process.connections = connections(self._port)
        return status.SerializeToString()


def merge(found: Sequence[Status]) -> Status:
    """One state of several: counts are summed, and what is the same at all is taken once.

    Example:
        >>> both = merge([Status(requests=2, state="SERVING"), Status(requests=3, state="SERVING")])
        >>> both.requests, both.state
        (5, 'SERVING')
    """
    merged = Status()
    merged.CopyFrom(found[0])
    for name in ("workers", "layers", "processes"):
        merged.ClearField(name)
    for name in ("requests", "running", "resident_bytes", "cpu_seconds", "streams"):
        setattr(merged, name, sum(getattr(status, name) for status in found))
    merged.uptime_seconds = max(status.uptime_seconds for status in found)
    layers: dict[Key, cluster_pb2.LayerLoad] = {}
    workers: dict[str, cluster_pb2.Worker] = {}
    for status in found:
        for worker in status.workers:
            _add_worker(workers.setdefault(worker.id, worker), worker)
        merged.processes.extend(status.processes)
        for layer in status.layers:
            known = layers.get((layer.name, layer.version))
            if known is None:
                layers[layer.name, layer.version] = layer
            else:
                known.requests += layer.requests
                known.failures += layer.failures
                known.seconds += layer.seconds
    merged.layers.extend(layers.values())
    merged.workers.extend(workers.values())
    states = [status.state for status in found]
    if all(state == NOT_SERVING for state in states):
        merged.state = NOT_SERVING
    else:
        merged.state = SERVING if all(state == SERVING for state in states) else DEGRADED
    merged.trouble = next((status.trouble for status in found if status.trouble), "")
    return merged


def _add_worker(known: cluster_pb2.Worker, worker: cluster_pb2.Worker) -> None:
    """Add what another front saw of a worker that they share."""
    if known is not worker:
        for name in ("shards", "calibration_shards", "busy_seconds"):
            setattr(known, name, getattr(known, name) + getattr(worker, name))
        known.restarts = max(known.restarts, worker.restarts)


def connections(port: int) -> int:
    """Clients' connections to this process."""
    found = psutil.Process().net_connections("tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in found)


def sum_usages(found: Sequence[Mapping[Key, Usage]], versions: Sequence[Version]) -> list[Usage]:
    """The usage of each version at all fronts."""
    return [_sum([at[v.name, v.version] for at in found if (v.name, v.version) in at]) for v in versions]


def _sum(usages: Sequence[Usage]) -> Usage:
    total = Usage()
    for usage in usages:
        for field in dataclasses.fields(Usage):
            setattr(total, field.name, getattr(total, field.name) + getattr(usage, field.name))
    return total


def sum_sizes(found: Sequence[Mapping[int, int]]) -> dict[int, int]:
    """Runs by their samples, at all fronts."""
    total: Counter[int] = Counter()
    for sizes in found:
        total.update(sizes)
    return dict(sorted(total.items()))


class FrontStatistics(ModelStatistics):
    """Counts of the Open Inference Protocol at all fronts.

    Args:
        supervisor: collects from all fronts.
    """

    def __init__(self, supervisor: Link) -> None:
        super().__init__()
        self._supervisor = supervisor

    def records(self, layers: Sequence[Version]) -> list[Record]:
        """Sums over all fronts; the records of this one while the supervisor does not answer."""
        totals = {(layer.name, layer.version): Record() for layer in layers}
        try:
            gathered = self._supervisor.call("gather", "statistics", set(totals))
        except UnavailableError:
            gathered = [self.here(layers)]
        for found in gathered:
            for key, record in found.items():
                totals[key].add(record)
        return list(totals.values())

    def here(self, layers: Sequence[Version]) -> dict[Key, Record]:
        """The records of this front."""
        return {(v.name, v.version): record for v, record in zip(layers, super().records(layers), strict=True)}
