"""Series whose labels come and go: those of layers, which users name, and of workers.

They are pruned as they are scraped, so a layer or worker that is gone has no series, and capped: layers beyond the cap
share one. They are not registered themselves; `gauges.py` yields them after it pruned them.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from operator import add

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from groupconv.convolution.report import ShardReport
from groupconv_server.telemetry.families import Histogram, Series, named

MAX_LAYERS = 100
"""Layers with series of their own."""
OTHER = "(other)"
"""The label of the rest; no layer can be called so."""


class LayerSeries:
    """Requests and their time by layer.

    Args:
        buckets: of the histogram, in seconds.
        most: layers with series of their own.

    Example:
        >>> series = LayerSeries((0.1, 1.0), most=1)
        >>> for name in ("edge", "blur", "edge"):
        ...     series.used(name, True, 0.05)
        >>> [(s.labels["layer"], s.value) for s in next(series.collect()).samples if s.labels["outcome"] == "ok"]
        [('edge', 2), ('(other)', 1)]
    """

    def __init__(self, buckets: Sequence[float], most: int = MAX_LAYERS) -> None:
        self.most, self._buckets = most, buckets
        self._series: dict[str, tuple[Series, Series]] = {}  # of requests that failed, and of those answered
        self._lock = threading.Lock()

    def used(self, layer: str, done: bool, seconds: float) -> None:
        """Count a request of a loaded layer."""
        (self._series.get(layer) or self._admitted(layer))[done].observe(seconds)

    def label(self, layer: str) -> str:
        """The label a layer has."""
        return layer if layer in self._series or len(self._series) - (OTHER in self._series) < self.most else OTHER

    def keep(self, layers: Collection[str]) -> None:
        """Drop the series of layers that are not among these."""
        with self._lock:
            for name in [n for n in self._series if n not in layers and n != OTHER]:
                del self._series[name]

    def collect(self) -> Iterator[Metric]:
        """Both families."""
        label = ["layer"]
        requests = CounterMetricFamily(
            "groupconv_layer_requests", "Requests by layer and outcome.", labels=[*label, "outcome"]
        )
        duration = HistogramMetricFamily(
            "groupconv_layer_duration_seconds", "Time of a request by layer.", labels=label
        )
        with self._lock:
            series = list(self._series.items())
        for name, both in series:
            (failed, lost), (ok, spent) = (one.folded() for one in both)
            requests.add_metric([name, "ok"], ok[-1])
            requests.add_metric([name, "error"], failed[-1])
            duration.add_metric([name], named(self._buckets, map(add, ok, failed)), lost + spent)
        yield from (requests, duration)

    def _admitted(self, layer: str) -> tuple[Series, Series]:
        with self._lock:
            return self._series.setdefault(self.label(layer), (Series(self._buckets), Series(self._buckets)))


class ShardSeries:
    """Time of shards by worker and algorithm."""

    def __init__(self, buckets: Sequence[float]) -> None:
        self.compute = Histogram(
            "groupconv_shard_compute_seconds",
            "Time of a step's shard in the engine.",
            ["worker", "algorithm"],
            buckets=buckets,
            registry=None,
        )
        self.wait = Histogram(
            "groupconv_shard_wait_seconds",
            "Time of a shard outside the engine: the wait for its worker, and its travel.",
            ["worker"],
            buckets=buckets,
            registry=None,
        )
        self._compute: dict[tuple[str, str], Series] = {}
        self._wait: dict[str, Series] = {}
        self._lock = threading.Lock()

    def ran(self, stages: Sequence[ShardReport]) -> None:
        """Note the stages of one shard."""
        worker = stages[0].worker
        outside = stages[0].seconds
        for stage in stages:
            key = worker, stage.algorithm
            child = self._compute.get(key)
            if child is None:
                with self._lock:
                    child = self._compute[key] = self.compute.labels(*key)
            child.observe(stage.compute_seconds)
            outside -= stage.compute_seconds
        wait = self._wait.get(worker)
        if wait is None:
            with self._lock:
                wait = self._wait[worker] = self.wait.labels(worker)
        wait.observe(max(0.0, outside))

    def busy(self, worker: str) -> float:
        """Seconds that a worker's shards were in the engine."""
        return sum(series.folded()[1] for (name, _), series in list(self._compute.items()) if name == worker)

    def keep(self, workers: Collection[str]) -> None:
        """Drop the series of workers that are not among these."""
        with self._lock:
            for worker in [w for w in self._wait if w not in workers]:
                del self._wait[worker]
                for key in [k for k in self._compute if k[0] == worker]:
                    del self._compute[key]
                self.compute.remove_by_labels({"worker": worker})
                self.wait.remove_by_labels({"worker": worker})

    def collect(self) -> Iterator[Metric]:
        """Both families."""
        yield from self.compute.collect()
        yield from self.wait.collect()
