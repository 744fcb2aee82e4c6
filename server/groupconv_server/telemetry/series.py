"""Metrics of work: layers, which users name, and shards by worker.

Their labels come and go. They are pruned when they are read, so a layer or worker that is gone has no series. Layers
beyond a limit share one series. They are not registered themselves: `gauges.py` prunes them and yields them.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric

from groupconv.convolution.report import ShardReport

MAX_LAYERS = 100
"""Layers with series of their own."""
OTHER = "(other)"
"""The label of the rest; no layer can be called so."""
PHASES = ("plan", "execute", "merge")


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
        self._requests = Counter(
            "groupconv_layer_requests", "Requests by layer and outcome.", ["layer", "outcome"], registry=None
        )
        self._duration = Histogram(
            "groupconv_layer_duration_seconds", "Time of a request by layer.", ["layer"], buckets=buckets, registry=None
        )
        self._series: dict[str, tuple[Counter, Counter, Histogram]] = {}  # failed, answered, seconds
        self._lock = threading.Lock()

    def used(self, layer: str, done: bool, seconds: float) -> None:
        """Count a request of a loaded layer: whether it was answered, and its seconds."""
        failed, answered, duration = self._series.get(layer) or self._admitted(layer)
        (answered if done else failed).inc()
        duration.observe(seconds)

    def label(self, layer: str) -> str:
        """The label of a layer: its name, or `OTHER`."""
        return layer if layer in self._series or len(self._series) - (OTHER in self._series) < self.most else OTHER

    def keep(self, layers: Collection[str]) -> None:
        """Drop the series of layers that are not among these."""
        with self._lock:
            for name in [n for n in self._series if n not in layers and n != OTHER]:
                del self._series[name]
                for family in (self._requests, self._duration):
                    family.remove_by_labels({"layer": name})

    def collect(self) -> Iterator[Metric]:
        """Both families."""
        yield from self._requests.collect()
        yield from self._duration.collect()

    def _admitted(self, layer: str) -> tuple[Counter, Counter, Histogram]:
        with self._lock:
            label = self.label(layer)
            if label not in self._series:
                failed, answered = (self._requests.labels(label, outcome) for outcome in ("error", "ok"))
                self._series[label] = failed, answered, self._duration.labels(label)
            return self._series[label]


class ShardSeries:
    """Convolutions by phase, and their shards by worker and algorithm.

    Args:
        buckets: of the histograms, in seconds.
        registry: has the phases, whose labels stay.
    """

    def __init__(self, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        phases = Histogram(
            "groupconv_phase_duration_seconds",
            "Time of a convolution by phase.",
            ["phase"],
            buckets=buckets,
            registry=registry,
        )
        self._phases = {phase: phases.labels(phase) for phase in PHASES}
        self.retries = Counter(
            "groupconv_shard_retries", "Shards that ran again because a worker was lost.", registry=registry
        )
        self._compute = Histogram(
            "groupconv_shard_compute_seconds",
            "Time of a step's shard in the engine.",
            ["worker", "algorithm"],
            buckets=buckets,
            registry=None,
        )
        self._wait = Histogram(
            "groupconv_shard_wait_seconds",
            "Time of a shard outside the engine: transport, and the wait for its worker.",
            ["worker"],
            buckets=buckets,
            registry=None,
        )
        self._series: dict[tuple[str, str], tuple[Histogram, Histogram]] = {}  # by worker and algorithm
        self._busy: dict[str, float] = {}
        self._lock = threading.Lock()

    def ran(self, reports: Sequence[Sequence[ShardReport]], phases: Mapping[str, float]) -> None:
        """Count a convolution.

        Args:
            reports: of each shard, one for each of its stages.
            phases: seconds of each of `PHASES`.
        """
        for name, seconds in phases.items():
            self._phases[name].observe(seconds)
        for stages in reports:
            first, computed = stages[0], 0.0
            for stage in stages:
                key = stage.worker, stage.algorithm
                compute, wait = self._series.get(key) or self._admitted(key)
                compute.observe(stage.compute_seconds)
                computed += stage.compute_seconds
            wait.observe(max(0.0, first.seconds - computed))
            with self._lock:
                self._busy[first.worker] = self._busy.get(first.worker, 0.0) + computed
            if first.attempts > 1:
                self.retries.inc(first.attempts - 1)

    def busy(self, worker: str) -> float:
        """Seconds that a worker's shards were in the engine."""
        return self._busy.get(worker, 0.0)

    def keep(self, workers: Collection[str]) -> None:
        """Drop the series of workers that are not among these."""
        with self._lock:
            for worker in {name for name, _ in self._series if name not in workers}:
                self._busy.pop(worker, None)
                for key in [k for k in self._series if k[0] == worker]:
                    del self._series[key]
                for family in (self._compute, self._wait):
                    family.remove_by_labels({"worker": worker})

    def collect(self) -> Iterator[Metric]:
        """The families of shards."""
        yield from self._compute.collect()
        yield from self._wait.collect()

    def _admitted(self, key: tuple[str, str]) -> tuple[Histogram, Histogram]:
        with self._lock:
            return self._series.setdefault(key, (self._compute.labels(*key), self._wait.labels(key[0])))
