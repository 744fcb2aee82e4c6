"""The record of one request, and what the requests of one method add up to.

gRPC runs each request in a context of its own, so a handler sees only its own request in `current`.
"""

import itertools
import logging
import re
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import grpc
from opentelemetry.trace import Span

from groupconv_server.telemetry import audit
from groupconv_server.telemetry.families import FOLD, Series
from groupconv_server.telemetry.traces import Traces, end

ID_KEY = "x-request-id"
"""Metadata key of the request's id. The caller may send one; the server always returns one."""
UNREAD = "UNREAD"
"""The code of a request that ended before a thread worked on it."""
Metadata = Sequence[tuple[str, str | bytes]]
_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
_prefix, _numbers = secrets.token_hex(6), itertools.count(1)


class MethodSeries:
    """The requests of one method. Safe to use from several threads.

    Ended requests are kept as they are and counted when somebody reads.

    Args:
        receive: seconds until a thread works on a request.
        duration: seconds until a request is answered.

    Attributes:
        codes: ended requests by status; `read` brings it up to date.
        refusals: those of them that the server would not do.
        retries: requests that are a client's further attempt.
        unread: codes of requests that ended before a thread worked on them. Appending needs no lock.
    """

    def __init__(self, receive: Series, duration: Series) -> None:
        self._receive, self._duration = receive, duration
        self._inside: set[Request] = set()
        self._waited: list[float] = []
        self._ended: list[tuple[str, float, int, int]] = []  # code, seconds, bytes in and out
        self.unread: deque[str] = deque()
        self.codes: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.retries = self._bytes_in = self._bytes_out = 0
        self._lock = threading.Lock()

    def retried(self) -> None:
        """Count a client's further attempt."""
        with self._lock:
            self.retries += 1

    def begun(self, request: "Request", waited: float) -> None:
        """Count a request that waited so many seconds for its thread."""
        self._inside.add(request)
        self._waited.append(waited)

    def ended(self, request: "Request", code: str, seconds: float) -> None:
        """Count a request that ended, so many seconds after it arrived."""
        with self._lock:  # a reader must find it either inside or ended
            self._inside.discard(request)
            self._ended.append((code, seconds, request.bytes_in, request.bytes_out))
        if len(self._ended) >= FOLD:
            self.read()

    def refused(self, code: str) -> None:
        """Count a request that the server would not do."""
        with self._lock:
            self.refusals[code] += 1

    def read(self) -> tuple[int, int, int]:
        """The number of requests inside, and the bytes of all messages in and out."""
        with self._lock:
            while self.unread:
                code = self.unread.popleft()
                self.refusals[code] += 1
                self.codes[code] += 1
            begun = len(self._waited)  # others may append meanwhile
            self._receive.extend(self._waited[:begun])
            del self._waited[:begun]
            if self._ended:
                codes, seconds, bytes_in, bytes_out = zip(*self._ended, strict=True)
                self._ended.clear()
                self.codes.update(codes)
                self._duration.extend(seconds)
                self._bytes_in += sum(bytes_in)
                self._bytes_out += sum(bytes_out)
            inside = list(self._inside)
            more_in, more_out = sum(r.bytes_in for r in inside), sum(r.bytes_out for r in inside)
            return len(inside), self._bytes_in + more_in, self._bytes_out + more_out


class Request:
    """One request, from its arrival to its end.

    Args:
        method: full name of the RPC, or "unknown" for one that does not exist.
        metadata: sent with the request.
        series: counts it.
        traces: makes its span.

    Attributes:
        id: the caller's, if it is safe to log, or a new one.
        token: name of the token it came with, never the token.
        field: the request's field that an error is about.
        traced: True if somebody collects spans of it.
        bytes_in, bytes_out: size of its messages so far.
    """

    __slots__ = (
        "_arrived",
        "_begun",
        "_metadata",
        "_series",
        "_span",
        "_traces",
        "bytes_in",
        "bytes_out",
        "field",
        "id",
        "method",
        "token",
        "traced",
    )

    def __init__(self, method: str, metadata: Metadata, series: MethodSeries, traces: Traces) -> None:
        self._arrived = time.perf_counter()
        self.method, self._metadata, self._series, self._traces = method, metadata, series, traces
        self._span: Span | None = None
        self._begun = self.traced = False
        self.bytes_in = self.bytes_out = 0
        self.id = self.token = self.field = ""
        for key, value in metadata:
            if key == ID_KEY and _ID.fullmatch(str(value)):
                self.id = str(value)
            elif key == "grpc-previous-rpc-attempts":
                series.retried()
        self.id = self.id or f"{_prefix}-{next(_numbers):x}"

    def begin(self, context: grpc.ServicerContext) -> None:
        """A thread starts to work on it."""
        self._begun = True
        self._series.begun(self, time.perf_counter() - self._arrived)
        if self._arrived >= self._traces.next_look:
            self._span = self._traces.begin(self.method, self.id, self._metadata, self._arrived)
            self.traced = self._span is not None and self._span.is_recording()
        context.set_trailing_metadata(((ID_KEY, self.id),))

    def end(self, context: Any, otherwise: str, *, active: bool) -> None:
        """Count, trace and, unless it succeeded, audit it.

        Args:
            context: of the request.
            otherwise: its status, by name, if gRPC has none.
            active: True if gRPC had not ended the call.
        """
        found = context.code()
        code = otherwise if found is None and active else _code(found, context)
        seconds = time.perf_counter() - self._arrived
        self._series.ended(self, code, seconds)
        reason = ""
        if code != "OK":
            reason = _text(context)
            if audit.failed(self._entry(code, context.peer(), reason, seconds)):
                self._series.refused(code)
        elif audit.log.isEnabledFor(logging.DEBUG):
            audit.done(self._entry(code, "", "", seconds))
        if self._span is not None:
            end(self._span, code, reason)

    def _entry(self, code: str, peer: str, reason: str, seconds: float) -> audit.Entry:
        return audit.Entry(code, self.method, peer, self.token, self.field, reason, seconds, self.id)

    def __del__(self) -> None:
        """Count a request that no thread was given. A destructor may run anywhere, so it takes no lock."""
        if not self._begun:
            self._series.unread.append(UNREAD)
            why = "over the limit of messages or of requests at a time, or cancelled"
            audit.unread(self._entry(UNREAD, "", why, time.perf_counter() - self._arrived))


current: ContextVar[Request | None] = ContextVar("request", default=None)
"""The request that this thread works on, or None."""


def _code(found: grpc.StatusCode | None, context: Any) -> str:
    """The name of the status that the call was given, or that gRPC ended it with."""
    if found is not None:
        return found.name
    return "CANCELLED" if context.time_remaining() else "DEADLINE_EXCEEDED"


def _text(context: Any) -> str:
    details = context.details()
    return details.decode(errors="replace") if isinstance(details, bytes) else details or ""
