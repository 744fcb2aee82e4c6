"""The configuration of a server in a program. `settings.py` has the command line's options for it."""

from dataclasses import dataclass, field
from pathlib import Path

from groupconv_server.coordinator.limits import Limits
from groupconv_server.executors.placement import Placement
from groupconv_worker.resident import CAPACITY


@dataclass(frozen=True, slots=True)
class Config:
    """One server.

    Attributes:
        host, port: where it listens; port 0 picks a free one.
        executor: "local" or "ray"; None is ray where a cluster's address is given or several GPUs are seen.
        workers, threads, engine, ray_address, placement, hedge: see `create_executor`.
        concurrency: requests worked on at a time.
        queue: that may wait; more are RESOURCE_EXHAUSTED at once.
        queue_bytes: of the messages of all requests that run or wait.
        insecure: whether it may listen without TLS on an address that others reach.
        tls_cert, tls_key: PEM files of its certificate and key; read again when they change.
        tls_client_ca: PEM file of the authorities of clients, which then must have a certificate (mutual TLS).
        tokens: TOML file of who may ask (`groupconv token`), read again when it changes; None is everybody.
        grace: seconds that running requests have to end after SIGTERM.
        limits: of a request.
        layer_bytes: weights of resident layers, on the server and on each worker.
        evict_layers: whether the least recently used layers leave when a new one does not fit; else it is refused.
        layer_dir: where layers are kept on disk and loaded from at the start; None keeps none.
        max_batch: requests that are joined along the batch at most, where that is measured to pay; 1 joins none.
        max_delay_us: microseconds more that a request that had to wait may wait for others to join it.
        shared_memory: whether clients of this machine may register shared memory.
        metrics_host, metrics_port: where Prometheus finds the metrics; port 0 picks a free one, None serves none.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    executor: str | None = None
    workers: int | None = None
    threads: int | None = None
    engine: str = "auto"
    ray_address: str | None = None
    placement: Placement = field(default_factory=Placement)
    hedge: float | None = None
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    concurrency: int = 64
    queue: int = 256
    queue_bytes: int = 2 * 2**30
    grace: float = 30.0
    limits: Limits = field(default_factory=Limits)
    layer_bytes: int = CAPACITY
    evict_layers: bool = False
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    layer_dir: Path | None = None
    shared_memory: bool = False
    max_batch: int = 1
    max_delay_us: int = 0

    def executor_name(self) -> str:
        """The executor asked for, or the one that fits what is there."""
        if self.executor is not None:
            return self.executor
        return "ray" if self.ray_address or _gpu_count() > 1 else "local"


def _gpu_count() -> int:
    """GPUs of this machine, without loading CUDA: what the NVIDIA driver lists."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
