"""Makes the parts of a server that is one process. The fronts of several processes make parts of their own."""

from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from groupconv.transport.address import joined
from groupconv_server.access.tokens import Tokens
from groupconv_server.admission.gate import Gate
from groupconv_server.config import Config
from groupconv_server.coordinator.batching import Batcher
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.limits import Limits
from groupconv_server.executors import Executor, create_executor
from groupconv_server.health import Health
from groupconv_server.inference.statistics import ModelStatistics
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.repository import Repository
from groupconv_server.layers.store import LayerStore
from groupconv_server.memory.cuda_memory import CLIENTS_CAPACITY, CudaMemory
from groupconv_server.memory.shared_memory import SharedMemory
from groupconv_server.networks.networks import Networks
from groupconv_server.networks.store import NetworkStore
from groupconv_server.servicers.cluster import ClusterServicer
from groupconv_server.streaming.budget import Budget
from groupconv_server.telemetry.page import Page, State


class Parts:
    """Makes the parts of a server that hold state.

    Args:
        config: of the server.

    Attributes:
        shares_port: whether other processes listen on its port.
        processes: that take the server's requests.
    """

    shares_port = False
    processes = 1

    def __init__(self, config: Config) -> None:
        self.config = config

    def store(self) -> LayerStore | None:
        """The folder of layers, if there is one.

        Raises:
            FailedPreconditionError: another server holds it, or it cannot be read.
        """
        folder, config = self.config.layer_dir, self.config
        return None if folder is None else LayerStore(folder, config.limits, joined(config.host, config.port))

    def executor(self) -> Executor:
        """The executor, which brings shards to workers."""
        config = self.config
        return create_executor(
            config.executor_name(),
            workers=config.workers,
            threads=config.threads,
            engine=config.engine,
            ray_address=config.ray_address,
            capacity=config.layer_bytes,
            placement=config.placement,
            hedge=config.hedge,
            spares=config.spares(),
        )

    def gate(self) -> Gate:
        """The limits of requests."""
        return Gate(self.config.concurrency, self.config.queue, self.config.queue_bytes)

    def tokens(self, path: Path) -> Tokens:
        """The tokens of callers that are admitted."""
        return Tokens(path)

    def layers(self, forget: Callable[[str, int], None], used: Callable[[str, bool, float], None]) -> Layers:
        """The registry of layers and networks."""
        return Layers(forget, capacity=self.config.layer_bytes, evict=self.config.evict_layers, used=used)

    def repository(self, layers: Layers, store: LayerStore | None, coordinator: Coordinator) -> Repository:
        """Loads and unloads layers."""
        return Repository(layers, store, coordinator)

    def networks(self, layers: Layers, executor: Executor, store: LayerStore | None) -> Networks:
        """Loads and unloads networks."""
        return Networks(layers, executor, self.config.limits, None if store is None else NetworkStore(store))

    def shared_memory(self, kind: str) -> SharedMemory:  # noqa: ARG002 - for fronts, which have each kind in common
        """A table of clients' regions on the host."""
        return SharedMemory()

    def device_memory(self, *, clients: bool) -> CudaMemory:
        """A table of clients' regions on devices.

        Args:
            clients: whether it is that of the SDK's clients.
        """
        return CudaMemory(capacity=CLIENTS_CAPACITY) if clients else CudaMemory()

    def streams(self, limits: Limits) -> Budget:
        """The memory of streams."""
        return Budget(limits.streams_bytes)

    def statistics(self) -> ModelStatistics:
        """Counts of the Open Inference Protocol."""
        return ModelStatistics()

    def batch_sizes(self, batcher: Batcher) -> Callable[[str, int], Mapping[int, int]]:
        """Sizes of the batches that a layer's version ran in, and how many there were of each."""
        return batcher.sizes

    def cluster(self, coordinator: Coordinator, layers: Layers, health: Health) -> ClusterServicer:
        """Reports the state of the server."""
        return ClusterServicer(coordinator, layers, health)

    def page(self, registry: CollectorRegistry, state: State) -> Page | None:
        """Metrics and health over HTTP, if they are wanted."""
        return Page.of(self.config.metrics_host, self.config.metrics_port, registry, state)

    def join(self) -> None:
        """Called when everything is in place, before the server listens."""
