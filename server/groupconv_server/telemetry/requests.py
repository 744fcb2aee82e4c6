"""What is counted of requests, by method: a record of each, kept as it is and taken apart when somebody reads."""

import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from groupconv_server.telemetry.families import FOLD, Histogram, Series


class Inside(Protocol):
    """A request that a thread works on, with the bytes of its messages so far."""

    bytes_in: int
    bytes_out: int


class MethodSeries:
    """The requests of one method. Safe to use from several threads.

    Args:
        receive: times until a thread works on one.
        duration: times until one is answered.
    """

    def __init__(self, receive: Series, duration: Series) -> None:
        self._receive, self._duration = receive, duration
        self._inside: set[Inside] = set()
        self._waited: list[float] = []
        self._fresh: list[tuple[str, float, int, int]] = []  # of each that ended: code, seconds, bytes in and out
        self.unread: deque[str] = deque()  # codes of those that ended before a thread worked on them
        self.codes: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.retries = self._bytes_in = self._bytes_out = 0
        self._lock = threading.Lock()

    def retried(self) -> None:
        """One is a client's further attempt."""
        with self._lock:
            self.retries += 1

    def begun(self, request: Inside, waited: float) -> None:
        """A thread works on one, after so many seconds."""
        self._inside.add(request)
        self._waited.append(waited)

    def ended(self, request: Inside, code: str, seconds: float) -> None:
        """One that had begun has ended, so many seconds after it arrived."""
        with self._lock:  # else a reader in between would miss it
            self._inside.discard(request)
            self._fresh.append((code, seconds, request.bytes_in, request.bytes_out))
        if len(self._fresh) >= FOLD:
            self.read()

    def refused(self, code: str) -> None:
        """One was not done."""
        with self._lock:
            self.refusals[code] += 1

    def read(self) -> tuple[int, int, int]:
        """How many there are inside, and the bytes of all messages in and out; `codes` is then up to date, too."""
        with self._lock:
            while self.unread:
                code = self.unread.popleft()
                self.refusals[code] += 1
                self.codes[code] += 1
            begun = len(self._waited)  # others may append meanwhile
            self._receive.extend(self._waited[:begun])
            del self._waited[:begun]
            if self._fresh:
                codes, seconds, bytes_in, bytes_out = zip(*self._fresh, strict=True)
                self._fresh.clear()
                self.codes.update(codes)
                self._duration.extend(seconds)
                self._bytes_in += sum(bytes_in)
                self._bytes_out += sum(bytes_out)
            inside = list(self._inside)
            more_in, more_out = sum(r.bytes_in for r in inside), sum(r.bytes_out for r in inside)
            return len(inside), self._bytes_in + more_in, self._bytes_out + more_out


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
        """The series of a method; keep it, to be quick."""
        with self._lock:
            found = self._methods.get(method)
            if found is None:
                found = MethodSeries(self._receive.labels(method), self._duration.labels(method))
                self._methods[method] = found
            return found

    def describe(self) -> Iterator[Metric]:
        """The families, empty as they are at registration: their names."""
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
