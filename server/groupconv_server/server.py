"""The server: the services on one port, started and ended in order."""

import logging
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.trace import TracerProvider

from groupconv.transport.address import joined
from groupconv.transport.channel import TRANSPORT
from groupconv.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    convolution_pb2,
    layer_pb2,
    layer_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    network_pb2,
    stream_pb2,
)
from groupconv_server.access.tls import certificates_for
from groupconv_server.admission.interceptor import Interceptor
from groupconv_server.admission.pool import RequestPool
from groupconv_server.binding import cannot_listen, why_not_bound
from groupconv_server.config import Config
from groupconv_server.coordinator.batching import Batcher
from groupconv_server.coordinator.calibration import calibrate_workers
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.gauges import Gauges
from groupconv_server.health import Health
from groupconv_server.inference.servicer import SERVICE as INFERENCE
from groupconv_server.inference.servicer import InferenceServicer
from groupconv_server.layers.background import Background
from groupconv_server.memory.client_memory import ClientMemory
from groupconv_server.parts import Parts
from groupconv_server.planner.networks.costs import Costs
from groupconv_server.servicers.convolution import ConvolutionServicer
from groupconv_server.servicers.layers import LayerServicer
from groupconv_server.servicers.memory import MemoryServicer
from groupconv_server.servicers.networks import NetworkServicer
from groupconv_server.servicers.reflection import SERVICE as REFLECTION
from groupconv_server.servicers.reflection import ReflectionServicer
from groupconv_server.servicers.stream import StreamServicer
from groupconv_server.telemetry import audit
from groupconv_server.telemetry.metrics import Metrics
from groupconv_server.telemetry.traces import Traces
from groupconv_server.web.optional import web_listener

log = logging.getLogger(__name__)

LINGER = 0.5
"""Seconds that callers have to read the last answer, and watchers of health to read NOT_SERVING."""

PING_MS = 10_000
"""Milliseconds between a client's pings, at least."""

HANDSHAKE_MS = 20_000
"""Milliseconds that a new connection has for TLS and for HTTP/2 to begin."""

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SERVICES = (
    convolution_pb2.DESCRIPTOR.services_by_name["ConvolutionService"].full_name,
    cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"].full_name,
    layer_pb2.DESCRIPTOR.services_by_name["LayerService"].full_name,
    stream_pb2.DESCRIPTOR.services_by_name["StreamService"].full_name,
    memory_pb2.DESCRIPTOR.services_by_name["MemoryService"].full_name,
    network_pb2.DESCRIPTOR.services_by_name["NetworkService"].full_name,
    INFERENCE,
)


class Server:
    """A running server; a context manager that ends it.

    Args:
        config: where it listens and what it works with.
        tracer_provider: takes its spans; None is OpenTelemetry's of this process, which drops them unless one is set.
        parts: makes what holds state; None makes that of a server of one process.

    Raises:
        FailedPreconditionError: an engine that cannot run here, certificates that cannot be read, or an address that
            others reach without TLS.
        UnavailableError: the port is taken, or no worker came up.

    Example:
        >>> import groupconv
        >>> with Server(Config(port=0)) as server, groupconv.connect(server.address) as client:
        ...     client.conv1d([[[1.0, 2.0, 3.0, 4.0]]], [[[1.0, 1.0]]]).tolist()
        [[[3.0, 5.0, 7.0]]]
    """

    def __init__(
        self, config: Config, tracer_provider: TracerProvider | None = None, parts: Parts | None = None
    ) -> None:
        self.config, self._parts = config, parts or Parts(config)
        parts = self._parts
        self._certificates = certificates_for(
            config.host, config.tls_cert, config.tls_key, config.tls_client_ca, insecure=config.insecure
        )
        self._tokens = None if config.tokens is None else parts.tokens(config.tokens)
        with ExitStack() as undo:
            self._store = parts.store()
            if self._store is not None:
                undo.callback(self._store.close)
            self.executor = parts.executor()
            undo.callback(self.executor.close)
            self.metrics = Metrics()
            self._traces = Traces(tracer_provider)
            self._gate = parts.gate()
            self.coordinator = Coordinator(
                self.executor,
                config.limits,
                metrics=self.metrics,
                traces=self._traces,
                inside=self._gate.everywhere(),
            )
            self.layers = parts.layers(self.executor.forget, self.metrics.layers.used)
            self.repository = parts.repository(self.layers, self._store, self.coordinator)
            self.networks = parts.networks(self.layers, self.executor, self._store)
            self.networks.calls.costs = lambda: Costs.of(self.coordinator.planner.statistics.known().values())
            self.executor.welcome(self.repository.prepare)
            self.background = Background(self.coordinator)
            undo.callback(self.background.stop)
            # one worker gets every request whole, so nobody waits until it is measured; none has no rates
            measure = len(self.executor.workers()) <= 1 or not calibrate_workers(self.coordinator)
            self.repository.restore()
            self.networks.restore()
            self.shared_memory = parts.shared_memory("region") if config.shared_memory else None
            self.cuda_memory = parts.device_memory(clients=False) if config.shared_memory else None
            # apart from the others, whose names may be listed and are the clients' own
            self.client_memory = parts.shared_memory("client region") if config.shared_memory else None
            self.client_device_memory = parts.device_memory(clients=True) if config.shared_memory else None
            for devices in (self.cuda_memory, self.client_device_memory):
                if devices is not None and config.max_batch == 1:  # inputs are joined on the host
                    devices.in_place = {gpu.ordinal: gpu for gpu in self.executor.gpus.values()}
            self.batcher = Batcher(self.coordinator, most=config.max_batch, delay=config.max_delay_us * 1e-6)
            self.streams = StreamServicer(self.coordinator, parts.streams(config.limits))
            self.health = Health(self.executor, SERVICES)
            self._interceptor = Interceptor(self._gate, self.metrics.requests, self._traces, self._tokens)
            self._pool = self._threads()
            self._gate.make_room = self._pool.end_oldest_wait
            state = Gauges(self.metrics, self.executor, self.layers, self.streams.budget, self._gate, self._pool)
            self.metrics.registry.register(state)
            self._grpc = self._build()
            parts.join()
            self.port = self._bind()
            self._web = web_listener(config, self._certificates, self._tokens)
            if self._web is not None:
                undo.callback(self._web.close)
                self._grpc.add_insecure_port(self._web.target)
            self._page = parts.page(self.metrics.registry, self.health.state)
            if self._store is not None:
                self._store.held.record(self.address)
            self._grpc.start()
            self.health.start()
            if self._web is not None:
                self._web.start()
            if measure:
                self.background.measure()
            undo.pop_all()

    @property
    def address(self) -> str:
        """The address that clients connect to."""
        return joined(self.config.host, self.port)

    @property
    def metrics_url(self) -> str | None:
        """The URL of its metrics, or None if they are not served."""
        return None if self._page is None else self._page.url

    @property
    def web_url(self) -> str | None:
        """The URL of its page, or None if there is no web port."""
        return None if self._web is None else self._web.url

    def described(self) -> str:
        """The workers, for people."""
        workers = self.executor.describe()
        engines = ", ".join(dict.fromkeys(w.engine for w in workers)) or "none has started"
        return f"{len(workers)} {self.executor.name} worker{'s' * (len(workers) != 1)} ({engines})"

    def compile_catalogue(self) -> None:
        """Have the workers load or compile the kernels of the catalogue, beside requests."""
        self.background.compile_catalogue()

    def reload(self) -> None:
        """Read certificates and tokens again. Those that cannot be read stay as they are, and the log says why."""
        files = [file for file in (self._certificates, self._tokens) if file is not None]
        for file in files:
            file.reload()
        if not files:
            log.info("reload: this server has neither certificates nor tokens to read again")

    def stop(self, grace: float | None = None) -> None:
        """Refuse new requests, let the running ones end within the grace period, and release the workers.

        Args:
            grace: seconds; None means those of the configuration.
        """
        self.health.stop()
        waited, grace = self._gate.inside > 0, self.config.grace if grace is None else grace
        if not self._gate.close(grace):
            log.warning("requests still running after %.0f s are cancelled", grace)
            self.executor.interrupt()
        elif waited:
            time.sleep(LINGER)  # gRPC has the last answers, and the clients have not read them yet
        self.background.stop(self.executor.interrupt)  # no request runs now
        if self._web is not None:
            self._web.close()
        self._grpc.stop(LINGER).wait()
        self._pool.shutdown()
        audit.flush()
        if self._page is not None:
            self._page.close()
        for memory in (self.shared_memory, self.cuda_memory, self.client_memory, self.client_device_memory):
            if memory is not None:
                memory.close()
        self.batcher.close()
        self.executor.close()
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _threads(self) -> RequestPool:
        """The pool of requests. It has few threads if they compute themselves and do not wait for a batch."""
        config = self.config
        here = self.executor.computes_here and config.max_batch == 1
        # each process computes on its share of the threads: more requests at work would push others out of the caches
        share = max(1, self.executor.computes_here // self._parts.processes)
        few = share + 1 if here else config.concurrency
        return RequestPool(few, config.concurrency, idle=config.limits.stream_idle_seconds)

    def _build(self) -> grpc.Server:
        limit = self.config.limits.message_bytes
        server = grpc.server(
            self._pool,  # type: ignore[arg-type] # any Executor does
            options=[
                ("grpc.max_send_message_length", limit),
                ("grpc.max_receive_message_length", limit),
                # clients may ping every 10 s during a call, where gRPC would close the connection
                ("grpc.http2.min_ping_interval_without_data_ms", PING_MS),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_MS),
                # and the server notices a client that has vanished, and ends its requests
                ("grpc.keepalive_time_ms", 6 * PING_MS),
                ("grpc.keepalive_timeout_ms", 2 * PING_MS),
                ("grpc.http2.ping_timeout_ms", 2 * PING_MS),
                *TRANSPORT,
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
                # a second server on the port is an error, not a silent share
                ("grpc.so_reuseport", int(self._parts.shares_port)),
            ],
            interceptors=[self._interceptor],
        )
        memory = ClientMemory(self.client_memory, self.client_device_memory)
        ConvolutionServicer(self.batcher, self.layers, memory).add_to(server)
        memory_pb2_grpc.add_MemoryServiceServicer_to_server(MemoryServicer(memory), server)
        layers = LayerServicer(self.repository, self.config.limits, self._parts.batch_sizes(self.batcher))
        layer_pb2_grpc.add_LayerServiceServicer_to_server(layers, server)
        cluster = self._parts.cluster(self.coordinator, self.layers, self.health)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(cluster, server)
        NetworkServicer(self.networks).add_to(server)
        self.streams.add_to(server)
        InferenceServicer(
            self.batcher,
            self.repository,
            self.shared_memory,
            self.cuda_memory,
            networks=self.networks,
            statistics=self._parts.statistics(),
        ).add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, server)
        ReflectionServicer((*SERVICES, HEALTH, REFLECTION)).add_to(server)
        return server

    def _bind(self) -> int:
        address = joined(self.config.host, self.config.port)
        try:
            if self._certificates is None:
                return self._grpc.add_insecure_port(address)
            return self._grpc.add_secure_port(address, self._certificates.credentials())
        except RuntimeError:
            raise cannot_listen(address, why_not_bound(self.config.host, self.config.port)) from None
