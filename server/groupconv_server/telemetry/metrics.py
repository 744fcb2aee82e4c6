"""The metrics of a server, by name. docs/observability.md has their table; tests/integration/test_metrics.py compares.

Label values are few: methods that exist, status codes, algorithms, and the workers and layers that are there now.
"""

import platform

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from groupconv import __version__
from groupconv_server.telemetry.requests import Requests
from groupconv_server.telemetry.series import LayerSeries, ShardSeries

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128)

disable_created_metrics()  # type: ignore[no-untyped-call] # one more series for each, which nobody reads


class Metrics:
    """The metrics of one server, in a registry of its own.

    Attributes:
        registry: what Prometheus reads.
        requests: by method.
        shards: convolutions, and their shards by worker.
        layers: requests of layers.
        batches: samples of a run, where requests may be joined.
        bands: bands of streams that were answered.

    Example:
        >>> metrics = Metrics()
        >>> metrics.shards.ran([], {"merge": 0.002})
        >>> metrics.registry.get_sample_value("groupconv_phase_duration_seconds_count", {"phase": "merge"})
        1.0
    """

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        GCCollector(registry=r)
        build = Gauge("groupconv_build_info", "Versions, in labels.", ["version", "python"], registry=r)
        build.labels(__version__, platform.python_version()).set(1)
        self.requests = Requests(SECONDS)
        r.register(self.requests)
        self.shards = ShardSeries(SECONDS, r)
        self.layers = LayerSeries(SECONDS)
        self.batches = Histogram(
            "groupconv_batch_samples", "Samples in a run, with --max-batch.", buckets=SAMPLES, registry=r
        )
        self.bands = Counter("groupconv_stream_bands", "Bands of streams that were answered.", registry=r)
