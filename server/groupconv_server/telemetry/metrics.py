"""The metrics of a server, by name. docs/observability.md is their table; `tests/server/test_metrics.py` compares both.

Label values are few: methods that exist, status codes, algorithms, workers and layers that are there now. The two
that come and go are in `series.py`.
"""

import platform
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from groupconv import __version__
from groupconv.convolution.plan import ShardReport
from groupconv_server.telemetry.families import Histogram
from groupconv_server.telemetry.requests import Requests
from groupconv_server.telemetry.series import LayerSeries, ShardSeries

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PHASES = ("plan", "execute", "merge")

disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each, which nobody reads


class Metrics:
    """Everything that is counted, in a registry of its own: two servers in one process do not meet.

    Example:
        >>> metrics = Metrics()
        >>> metrics.phase("merge", 0.002)
        >>> metrics.registry.get_sample_value("groupconv_phase_duration_seconds_count", {"phase": "merge"})
        1
    """

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
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

    def phase(self, name: str, seconds: float) -> None:
        """Note the time of one of `PHASES`."""
        self._phases[name].observe(seconds)

    def ran(self, reports: Sequence[Sequence[ShardReport]]) -> None:
        """Note what became of shards: for each the reports of its stages."""
        for stages in reports:
            self.shards.ran(stages)
            if stages[0].attempts > 1:
                self.shard_retries.inc(stages[0].attempts - 1)
