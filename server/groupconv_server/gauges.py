"""Metrics that are read when they are scraped: workers, layers, the queue, the memory of streams."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from groupconv_server.admission.gate import Gate
from groupconv_server.admission.pool import RequestPool
from groupconv_server.executors.base import Executor
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.version import Version
from groupconv_server.streaming.budget import Budget
from groupconv_server.telemetry.gpus import Gpus
from groupconv_server.telemetry.metrics import Metrics


class Gauges:
    """A collector of the registry.

    Args:
        metrics: its series of layers and workers are pruned and yielded.
        executor, layers, streams, gate, pool: of the server.
    """

    def __init__(
        self, metrics: Metrics, executor: Executor, layers: Layers, streams: Budget, gate: Gate, pool: RequestPool
    ) -> None:
        self._metrics, self._executor, self._layers = metrics, executor, layers
        self._streams, self._gate, self._pool, self._gpus = streams, gate, pool, Gpus()

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry asks at registration, when there are no values."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Everything as it is now."""
        yield from self._of_workers()
        yield from self._of_layers()
        yield from self._gpus.collect()
        yield _gauge("groupconv_queue_requests", "Requests that wait for a thread.", self._pool.waiting)
        yield _gauge("groupconv_queue_bytes", "Messages of requests that run or wait.", self._gate.nbytes)
        yield _gauge("groupconv_stream_held_bytes", "Memory that streams hold.", self._streams.held)
        yield _gauge("groupconv_stream_limit_bytes", "Memory that streams may hold.", self._streams.limit)

    def _of_workers(self) -> Iterator[Metric]:
        workers = self._executor.describe()
        info = GaugeMetricFamily(
            "groupconv_worker_info", "A worker that takes shards.", labels=["worker", "node", "engine", "device"]
        )
        threads = GaugeMetricFamily("groupconv_worker_threads", "CPU threads of a worker.", labels=["worker"])
        shards = CounterMetricFamily("groupconv_worker_shards", "Shards that a worker has run.", labels=["worker"])
        restarts = CounterMetricFamily("groupconv_worker_restarts", "Times a worker was lost.", labels=["worker"])
        for w in workers:
            info.add_metric([w.id, w.node, w.engine, w.device], 1)
            threads.add_metric([w.id], w.threads)
            shards.add_metric([w.id], w.shards)
            restarts.add_metric([w.id], w.restarts)
        yield _gauge("groupconv_workers", "Workers that take shards.", len(workers))
        yield from (info, threads, shards, restarts)
        self._metrics.shards.keep({w.id for w in workers})
        yield from self._metrics.shards.collect()

    def _of_layers(self) -> Iterator[Metric]:
        series = self._metrics.layers
        loaded = self._layers.all(Version)
        series.keep({layer.name for layer in loaded})
        by_label: dict[str, int] = {}
        for layer in loaded:
            label = series.label(layer.name)
            by_label[label] = by_label.get(label, 0) + layer.bytes
        each = GaugeMetricFamily("groupconv_layer_bytes", "Weights of a layer or network.", labels=["layer"])
        for label, size in by_label.items():
            each.add_metric([label], size)
        yield _gauge("groupconv_layers", "Layers and networks that are loaded.", len(loaded))
        yield _gauge(
            "groupconv_layers_bytes", "Weights of all layers, also of those that are being loaded.", self._layers.bytes
        )
        yield _gauge("groupconv_layers_limit_bytes", "Weights that layers may hold.", self._layers.capacity)
        yield each
        yield from series.collect()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
