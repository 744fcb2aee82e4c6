"""The metrics of a server, by name. docs/observability.md has their table; tests/integration/test_metrics.py compares.

Label values are few: methods that exist, status codes, algorithms, workers and layers that are there now. The two
that come and go are in `series.py`.
"""

import platform
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from groupconv import __version__
from groupconv.convolution.report import ShardReport
from groupconv_server.telemetry.families import FOLD, Histogram
from groupconv_server.telemetry.requests import Requests
from groupconv_server.telemetry.series import LayerSeries, ShardSeries

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PHASES = ("plan", "execute", "merge")

disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each, which nobody reads


class Metrics:
    """Everything that is counted, in a registry of its own: two servers in one process do not meet.

    Example:
        >>> metrics = Metrics()
        >>> metrics.ran([], {"merge": 0.002})
        >>> metrics.registry.get_sample_value("groupconv_phase_duration_seconds_count", {"phase": "merge"})
        1
    """

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        r.register(_Fold(self))
        self._ran: deque[tuple[Sequence[Sequence[ShardReport]], Mapping[str, float]]] = deque()
        self._used: deque[tuple[str, bool, float]] = deque()
        self._lock = threading.Lock()
        ProcessCollector(registry=r)
        GCCollector(registry=r)
        build = Gauge("groupconv_build_info", "Versions, in labels.", ["version", "python"], registry=r)
        build.labels(__version__, platform.python_version()).set(1)

        self.requests = Requests(SECONDS)
        r.register(self.requests)
        self.phases = Histogram(
            "groupconv_phase_duration_seconds",
            "Time of a convolution by phase.",
            ["phase"],
            buckets=SECONDS,
            registry=r,
        )
        self._phases = {phase: self.phases.labels(phase) for phase in PHASES}
        self.shard_retries = Counter("groupconv_shard_retries", "Shards run again: a worker was lost.", registry=r)
        self.shards = ShardSeries(SECONDS)
        self.layers = LayerSeries(SECONDS)

        self.batches = Histogram(
            "groupconv_batch_samples",
            "Samples in a run, where requests may be joined.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=r,
        )
        self.bands = Counter("groupconv_stream_bands", "Bands of streams that were answered.", registry=r)

    def ran(self, reports: Sequence[Sequence[ShardReport]], phases: Mapping[str, float]) -> None:
        """Take the shards of a convolution, for each the reports of its stages, and the seconds of its `PHASES`.

        They are kept as they come, and counted when somebody reads.
        """
        self._ran.append((reports, phases))
        if len(self._ran) >= FOLD:
            self.fold()

    def used(self, layer: str, done: bool, seconds: float) -> None:
        """Take a request of a loaded layer: whether it was answered, and its seconds."""
        self._used.append((layer, done, seconds))
        if len(self._used) >= FOLD:
            self.fold()

    def fold(self) -> None:
        """Count what came."""
        with self._lock:
            while self._ran:
                reports, phases = self._ran.popleft()
                for name, seconds in phases.items():
                    self._phases[name].observe(seconds)
                for stages in reports:
                    self.shards.ran(stages)
                    if stages[0].attempts > 1:
                        self.shard_retries.inc(stages[0].attempts - 1)
            while self._used:
                self.layers.used(*self._used.popleft())

    def busy(self, worker: str) -> float:
        """Seconds that a worker's shards were in the engine."""
        self.fold()
        return self.shards.busy(worker)


class _Fold:
    """The first collector of the registry: what came is counted before the others are read."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        """Nothing of its own."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Nothing of its own."""
        self._metrics.fold()
        return iter(())
