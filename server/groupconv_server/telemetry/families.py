"""Metrics that are cheap to feed: values are kept as they come, and added or sorted into buckets when they are read.

prometheus_client's own take a lock or two for each value, its histogram a search on top, and a request has sixteen.
Thousands at once cost NumPy a hundredth of that (bench/telemetry.py).
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

FOLD = 4096
"""Values that are kept before they are sorted without being read."""


class Series:
    """One series.

    Args:
        bounds: upper bounds of the buckets but the last, which has none.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.asarray(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._fresh: list[float] = []
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Take a value."""
        fresh = self._fresh
        fresh.append(value)
        if len(fresh) >= FOLD:
            self.folded()

    def extend(self, values: Sequence[float]) -> None:
        """Take several."""
        self._fresh += values
        self.folded()

    def folded(self) -> tuple[list[int], float]:
        """Values up to each bound, all of them last, and their sum."""
        with self._lock:
            taken = len(self._fresh)  # others may append meanwhile
            values = np.asarray(self._fresh[:taken])
            del self._fresh[:taken]
            if taken:
                self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
                self._sum += float(values.sum())
            return np.cumsum(self._counts).tolist(), self._sum


class Histogram:
    """A family of series by their labels; one without labels is fed directly.

    Args:
        name, documentation: of the metric.
        labels: names of its labels.
        buckets: upper bounds, ascending, without infinity.
        registry: where it is shown.

    Example:
        >>> family = Histogram("wait_seconds", "Wait.", ["worker"], buckets=(0.1, 1.0))
        >>> for seconds in (0.05, 0.1, 3.0):
        ...     family.labels("w0").observe(seconds)
        >>> [(s.name, s.labels.get("le"), s.value) for s in next(family.collect()).samples]
        [('wait_seconds_bucket', '0.1', 2), ('wait_seconds_bucket', '1.0', 2), ('wait_seconds_bucket', '+Inf', 3),
         ('wait_seconds_count', None, 3), ('wait_seconds_sum', None, 3.15)]
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._name, self._documentation, self._labels, self._buckets = name, documentation, tuple(labels), buckets
        self._series: dict[tuple[str, ...], Series] = {}
        self._lock = threading.Lock()
        if not labels:
            self.observe = self.labels().observe
        if registry is not None:
            registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these label values; keep it, to be quick."""
        with self._lock:
            return self._series.setdefault(values, Series(self._buckets))

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Drop every series that has these label values."""
        wanted = {(self._labels.index(name), value) for name, value in labels.items()}
        with self._lock:
            for key in [k for k in self._series if wanted <= set(enumerate(k))]:
                del self._series[key]

    def describe(self) -> Iterator[Metric]:
        """The family, empty: its name, for the registry."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        """The family with its series."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        with self._lock:
            series = list(self._series.items())
        for key, one in series:
            counts, total = one.folded()
            family.add_metric(key, named(self._buckets, counts), total)
        yield family


def named(buckets: Sequence[float], counts: Iterable[int]) -> list[tuple[str, int]]:
    """Buckets as they are shown: each with its bound, the last without one.

    Example:
        >>> named((0.5,), [3, 4])
        [('0.5', 3), ('+Inf', 4)]
    """
    return list(zip([*map(floatToGoString, buckets), "+Inf"], counts, strict=True))
