"""The metrics of all fronts as those of one server."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from groupconv_server.telemetry.series import MAX_LAYERS, OTHER

ALIKE = frozenset(
    {
        "groupconv_build_info",
        "groupconv_layers",
        "groupconv_layers_bytes",
        "groupconv_layers_limit_bytes",
        "groupconv_layer_bytes",
        "groupconv_stream_limit_bytes",
        "process_start_time_seconds",
        "groupconv_worker_info",
        "groupconv_worker_threads",
        "groupconv_worker_restarts",
        "groupconv_gpu_memory_used_bytes",
        "groupconv_gpu_memory_bytes",
        "groupconv_gpu_utilization_ratio",
        "process_max_fds",
    }
)
"""Families that every front has alike: the largest value counts. Others are summed."""
WORKERS = "groupconv_workers"
"""The number of workers, which fronts have alike where they share them."""
_Key = tuple[str, tuple[tuple[str, str], ...]]


class SummedMetrics:
    """A collector of a registry.

    What a lost process had counted stays in the sums as of the last scrape, so counters never go back.

    Args:
        gather: returns the families of each front, by its number.
        shared: whether the fronts share their workers.
    """

    def __init__(self, gather: Callable[[], dict[int, list[Metric]]], *, shared: bool = False) -> None:
        self._alike = ALIKE | {WORKERS} if shared else ALIKE
        self._gather, self._last, self._lost = gather, dict[int, list[Metric]](), list[Metric]()
        self._layers: list[str] = []  # that have series of their own: each front has chosen some
        self._lock = threading.Lock()

    def registry(self) -> CollectorRegistry:
        """A registry with these metrics."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry asks at registration, when there are no values."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The sums."""
        with self._lock:
            self._last |= self._gather()
            families = [metric for metrics in self._last.values() for metric in metrics]
            families.sort(key=lambda family: family.type == "gauge")  # layers that a front has counted come first
            samples = (sample for family in families for sample in family.samples)
            present = dict.fromkeys(sample.labels["layer"] for sample in samples if "layer" in sample.labels)
            self._layers = [layer for layer in self._layers if layer in present]
            more = [layer for layer in present if layer not in self._layers and layer != OTHER]
            self._layers += more[: MAX_LAYERS - len(self._layers)]
            yield from total([self._lost, *self._last.values()], self._layers, self._alike)

    def lose(self, front: int) -> None:
        """A front has ended."""
        with self._lock:
            counted = [m for m in self._last.pop(front, ()) if m.type in ("counter", "histogram")]
            self._lost = list(total([self._lost, counted]))


def total(
    found: Iterable[Sequence[Metric]], layers: Collection[str] | None = None, alike: Collection[str] = ALIKE
) -> Iterator[Metric]:
    """One family of each name, with the sums of its samples.

    Args:
        found: the families of each front.
        layers: those that have series of their own, the others have one together; None gives each its own.
        alike: names of families whose largest value counts.

    Example:
        >>> from prometheus_client.core import CounterMetricFamily
        >>> [family] = total([[CounterMetricFamily("seen", "Seen.", value=n)] for n in (2, 3)])
        >>> family.samples[0].name, family.samples[0].value
        ('seen_total', 5)
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[_Key, float]] = {}
    for metrics in found:
        for metric in metrics:
            families.setdefault(metric.name, metric)
            samples = values.setdefault(metric.name, {})
            for sample in metric.samples:
                labels = sample.labels
                if layers is not None and "layer" in labels and labels["layer"] not in layers:
                    labels = {**labels, "layer": OTHER}
                key = sample.name, tuple(labels.items())
                known = samples.get(key)
                if known is None:
                    samples[key] = sample.value
                elif metric.name in alike:
                    samples[key] = max(known, sample.value)
                else:
                    samples[key] = known + sample.value
    for name, family in families.items():
        summed = Metric(name, family.documentation, family.type, family.unit)
        summed.samples = [Sample(n, dict(labels), value) for (n, labels), value in values[name].items()]
        yield summed
