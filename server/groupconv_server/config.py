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
        spare_workers: see `create_executor`; None is 1 where the server starts Ray itself, else 0.
        concurrency: requests worked on at a time.
        queue: requests that may wait; more are RESOURCE_EXHAUSTED at once.
        queue_bytes: memory of all requests that run or wait: messages, answers and intermediate arrays.
        insecure: True to listen without TLS on an address that others reach.
        tls_cert, tls_key: PEM files of its certificate and key; read again when they change.
        tls_client_ca: PEM file of the authorities of clients, which then must have a certificate (mutual TLS).
        tokens: TOML file of tokens (`groupconv token`), read again when it changes; None admits everybody.
        grace: seconds that running requests have to end after SIGTERM.
        limits: of one request.
        layer_bytes: weights of resident layers, on the server and on each worker.
        evict_layers: True to unload the least recently used layers when a new one does not fit, False to refuse it.
        layer_dir: where layers are kept on disk and loaded from at the start; None keeps none.
        max_batch: requests in one run, at most, where a measurement says that it pays; 1 joins none.
        max_delay_us: microseconds more that a request that had to wait may wait for others to join it.
        shared_memory: True if clients of this machine may register shared memory.
        processes: processes that take requests; more than 1 is for `fronts.supervisor.Supervisor`.
        metrics_host, metrics_port: address of the metrics; port 0 picks a free one, None serves none.
        web_port: port of gRPC-Web, Connect and the page on `host`; 0 picks a free one, None serves none.
        web_origins: sites whose pages may call the web port, as `https://host`; the server's own page always may.
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
    spare_workers: int | None = None
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
    web_port: int | None = None
    web_origins: tuple[str, ...] = ()
    layer_dir: Path | None = None
    shared_memory: bool = False
    max_batch: int = 1
    max_delay_us: int = 0
    processes: int = 1

    def executor_name(self) -> str:
        """The configured executor, or ray where there is a cluster or several GPUs, else local."""
        if self.executor is not None:
            return self.executor
        return "ray" if self.ray_address or gpu_count() > 1 else "local"

    def spares(self) -> int:
        """Spare workers of each node: as configured, or 1 on a cluster of this machine, where no other node helps."""
        return int(self.ray_address is None) if self.spare_workers is None else self.spare_workers


def gpu_count() -> int:
    """GPUs of this machine, without loading CUDA: what the NVIDIA driver lists."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
