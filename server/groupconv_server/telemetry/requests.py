"""Metrics of requests, by method."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import Metric


class MethodSeries:
    """The series of one method; a record of a request feeds them. Safe to use from several threads.

    Attributes:
        inside: requests that a thread works on.
        receive: seconds until a thread works on a request.
        duration: seconds until a request is answered.
        bytes_in: size of the messages read.
        bytes_out: size of the messages answered.
        retries: requests that are a client's further attempt.
        ended: requests by status.
        refused: requests that the server would not do, by status.
        unread: statuses of requests that no thread worked on. A destructor appends them here, because it may take no
            lock; they are counted when the metrics are read.
    """

    def __init__(self, requests: "Requests", method: str) -> None:
        self.inside = requests.inside.labels(method)
        self.receive, self.duration = requests.receive.labels(method), requests.duration.labels(method)
        self.bytes_in, self.bytes_out = requests.bytes_in.labels(method), requests.bytes_out.labels(method)
        self.retries = requests.retries.labels(method)
        self.ended, self.refused = _ByCode(requests.ended, method), _ByCode(requests.refused, method)
        self.unread: deque[str] = deque()

    def count_unread(self) -> None:
        """Count what destructors left."""
        while self.unread:
            code = self.unread.popleft()
            self.ended[code].inc()
            self.refused[code].inc()


class _ByCode(dict[str, Counter]):
    """A method's counters by status, made when a status first occurs."""

    def __init__(self, family: Counter, method: str) -> None:
        super().__init__()
        self._family, self._method = family, method

    def __missing__(self, code: str) -> Counter:
        child = self[code] = self._family.labels(self._method, code)
        return child


class Requests:
    """The requests of every method; a collector of the registry.

    Args:
        buckets: of the histograms, in seconds.

    Example:
        >>> requests = Requests((0.1, 1.0))
        >>> requests.of("Convolve").unread.append("UNREAD")
        >>> [(s.name, s.labels, s.value) for s in next(requests.collect()).samples]
        [('groupconv_requests_total', {'method': 'Convolve', 'code': 'UNREAD'}, 1.0)]
    """

    def __init__(self, buckets: Sequence[float]) -> None:
        method, code = ["method"], ["method", "code"]

        def counter(name: str, text: str, labels: Sequence[str] = method) -> Counter:
            return Counter(name, text, labels, registry=None)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, method, buckets=buckets, registry=None)

        self.ended = counter("groupconv_requests", "Requests that have ended, by status.", code)
        self.inside = Gauge("groupconv_requests_in_flight", "Requests that run.", method, registry=None)
        self.bytes_in = counter("groupconv_request_bytes", "Bytes of messages read.")
        self.bytes_out = counter("groupconv_response_bytes", "Bytes of messages sent.")
        self.refused = counter("groupconv_requests_refused", "Requests that the server refused.", code)
        self.retries = counter("groupconv_client_retries", "Requests that a client sent again.")
        self.duration = histogram("groupconv_request_duration_seconds", "From a request's arrival to its answer.")
        self.receive = histogram(
            "groupconv_request_receive_seconds", "From a request's arrival until it is read and a thread works on it."
        )
        self._methods: dict[str, MethodSeries] = {}
        self._lock = threading.Lock()

    def of(self, method: str) -> MethodSeries:
        """The series of a method. Keep it: a look-up takes a lock."""
        with self._lock:
            series = self._methods.get(method)
            if series is None:
                series = self._methods[method] = MethodSeries(self, method)
            return series

    def describe(self) -> Iterator[Metric]:
        """The families; empty at registration, when the registry wants their names."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """The families with their series."""
        with self._lock:
            methods = list(self._methods.values())
        for series in methods:
            series.count_unread()
        families = (self.ended, self.inside, self.bytes_in, self.bytes_out, self.refused, self.retries)
        for family in (*families, self.duration, self.receive):
            yield from family.collect()
