"""ClusterService: the state of the server and its workers."""

import functools
import importlib.metadata
import platform
import time

import grpc
import psutil

from groupconv import __version__
from groupconv.v1 import cluster_pb2, cluster_pb2_grpc
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors.base import WorkerInfo
from groupconv_server.health import Health
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.version import Version

LIBRARIES = ("numpy", "onnxruntime", "numba", "scipy", "cupy-cuda12x", "cupy-cuda13x", "ray", "grpcio", "protobuf")
"""Libraries whose versions are reported, if they are installed."""


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """Reports version, executor, workers, layers and load."""

    def __init__(self, coordinator: Coordinator, layers: Layers, health: Health) -> None:
        self.coordinator, self.layers, self.health = coordinator, layers, health
        self._process = psutil.Process()

    def GetCluster(  # noqa: N802 - the RPC's name
        self,
        request: cluster_pb2.GetClusterRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> cluster_pb2.GetClusterResponse:
        """Report the current state."""
        c = self.coordinator
        cpu = self._process.cpu_times()
        state, trouble = self.health.state()
        return cluster_pb2.GetClusterResponse(
            version=__version__,
            executor=c.executor.name,
            workers=[self._worker(w) for w in c.executor.describe()],
            requests=c.requests,
            uptime_seconds=time.monotonic() - c.started,
            max_message_bytes=c.limits.message_bytes,
            running=c.running,
            libraries=_versions(),
            layers=map(_layer, self.layers.all(Version)),
            layer_bytes=self.layers.bytes,
            layer_capacity=self.layers.capacity,
            resident_bytes=self._process.memory_info().rss,
            cpu_seconds=cpu.user + cpu.system,
            state=state,
            trouble=trouble,
            streams=c.streams,
        )

    def _worker(self, w: WorkerInfo) -> cluster_pb2.Worker:
        calibrating = self.coordinator.calibration_shards[w.id]
        return cluster_pb2.Worker(
            id=w.id,
            node=w.node,
            engine=w.engine,
            device=w.device,
            threads=w.threads,
            shards=max(0, w.shards - calibrating),
            calibration_shards=calibrating,
            restarts=w.restarts,
            busy_seconds=self.coordinator.metrics.shards.busy(w.id),
            lane=w.lane,
            lane_limit=w.lane_limit,
        )


def _layer(layer: Version) -> cluster_pb2.LayerLoad:
    used = layer.usage
    return cluster_pb2.LayerLoad(
        name=layer.name,
        version=layer.version,
        bytes=layer.bytes,
        requests=used.requests,
        failures=used.failures,
        seconds=used.seconds,
    )


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
