"""Metrics of requests, by method."""

import threading
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from groupconv_server.telemetry.families import Histogram
from groupconv_server.telemetry.request import MethodSeries


class Requests:
    """The requests of every method; a collector of the registry.

    Args:
        buckets: of the histograms, in seconds.

    Example:
        >>> requests = Requests((0.1, 1.0))
        >>> requests.of("Convolve").unread.append("UNREAD")
        >>> [(s.name, s.labels, s.value) for s in next(requests.collect()).samples]
        [('groupconv_requests_total', {'method': 'Convolve', 'code': 'UNREAD'}, 1)]
    """

    def __init__(self, buckets: Sequence[float]) -> None:
        self._duration = Histogram(
            "groupconv_request_duration_seconds",
            "From a request's arrival to its answer.",
            ["method"],
            buckets=buckets,
        )
        self._receive = Histogram(
            "groupconv_request_receive_seconds",
            "From a request's arrival until it is read and a thread works on it.",
            ["method"],
            buckets=buckets,
        )
        self._methods: dict[str, MethodSeries] = {}
        self._lock = threading.Lock()

    def of(self, method: str) -> MethodSeries:
        """The series of a method. Keep it: a look-up takes a lock."""
        with self._lock:
            found = self._methods.get(method)
            if found is None:
                found = MethodSeries(self._receive.labels(method), self._duration.labels(method))
                self._methods[method] = found
            return found

    def describe(self) -> Iterator[Metric]:
        """The families; empty at registration, when the registry wants their names."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """The families with their series."""
        method = ["method"]
        ended = CounterMetricFamily("groupconv_requests", "Requests ended, by status.", labels=["method", "code"])
        inside = GaugeMetricFamily("groupconv_requests_in_flight", "Requests inside.", labels=method)
        bytes_in = CounterMetricFamily("groupconv_request_bytes", "Bytes of messages read.", labels=method)
        bytes_out = CounterMetricFamily("groupconv_response_bytes", "Bytes of messages answered.", labels=method)
        refused = CounterMetricFamily(
            "groupconv_requests_refused", "Requests the server would not do.", labels=["method", "code"]
        )
        retries = CounterMetricFamily(
            "groupconv_client_retries", "Requests that are a client's further attempt.", labels=method
        )
        with self._lock:
            methods = list(self._methods.items())
        for name, series in methods:
            now, came, went = series.read()
            inside.add_metric([name], now)
            bytes_in.add_metric([name], came)
            bytes_out.add_metric([name], went)
            retries.add_metric([name], series.retries)
            for family, counted in ((ended, series.codes), (refused, series.refusals)):
                for code, count in list(counted.items()):
                    family.add_metric([name, code], count)
        yield from (ended, inside, bytes_in, bytes_out, refused, retries)
        yield from self._duration.collect()
        yield from self._receive.collect()
