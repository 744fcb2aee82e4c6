"""Series whose labels come and go: those of layers, which users name, and of workers.

They are pruned as they are scraped, so a layer or worker that is gone has no series, and capped: layers beyond the cap
share one. They are not registered themselves; `state.py` yields them after it pruned them.
"""

import threading
from collections.abc import Collection, Iterator, Sequence

from prometheus_client import Counter
from prometheus_client.metrics_core import Metric

from groupconv.plan import ShardReport
from groupconv_server.telemetry.families import Histogram, Series

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
        [('edge', 2.0), ('(other)', 1.0)]
    """

    def __init__(self, buckets: Sequence[float], most: int = MAX_LAYERS) -> None:
        self.most = most
        self.requests = Counter(
            "groupconv_layer_requests", "Requests by layer and outcome.", ["layer", "outcome"], registry=None
        )
        self.duration = Histogram(
            "groupconv_layer_duration_seconds", "Time of a request by layer.", ["layer"], buckets=buckets, registry=None
        )
        self._named: dict[str, tuple[Counter, Counter, Series]] = {}
        self._lock = threading.Lock()

    def used(self, layer: str, done: bool, seconds: float) -> None:
        """Count a request of a loaded layer."""
        ok, failed, duration = self._named.get(layer) or self._admitted(layer)
        (ok if done else failed).inc()
        duration.observe(seconds)

    def label(self, layer: str) -> str:
        """The label a layer has."""
        return layer if layer in self._named or len(self._named) < self.most else OTHER

    def keep(self, layers: Collection[str]) -> None:
        """Drop the series of layers that are not among these."""
        with self._lock:
            for name in [n for n in self._named if n not in layers]:
                del self._named[name]
                self.requests.remove_by_labels({"layer": name})
                self.duration.remove_by_labels({"layer": name})

    def collect(self) -> Iterator[Metric]:
        """Both families."""
        yield from self.requests.collect()
        yield from self.duration.collect()

    def _admitted(self, layer: str) -> tuple[Counter, Counter, Series]:
        with self._lock:
            name = self.label(layer)
            made = (
                self.requests.labels(name, "ok"),
                self.requests.labels(name, "error"),
                self.duration.labels(name),
            )
            if name is not OTHER:
                self._named[name] = made
            return made


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
