"""The record of one request: its id, its times and its status.

gRPC runs each request in a context of its own, so a handler sees only its own request in `current`.
"""

import itertools
import logging
import re
import secrets
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import grpc
from opentelemetry.trace import Span

from groupconv_server.telemetry import audit
from groupconv_server.telemetry.requests import MethodSeries
from groupconv_server.telemetry.traces import Traces, end

ID_KEY = "x-request-id"
"""Metadata key of the request's id. The caller may send one; the server always returns one."""
PEER_KEY = "x-groupconv-peer"
"""Metadata key of the caller's address in a call that the web port forwards. Believed on a Unix socket alone."""
UNREAD = "UNREAD"
"""The code of a request that ended before a thread worked on it."""
Metadata = Sequence[tuple[str, str | bytes]]
_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
_prefix, _numbers = secrets.token_hex(6), itertools.count(1)


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
    """

    __slots__ = (
        "_arrived",
        "_begun",
        "_forwarded",
        "_metadata",
        "_series",
        "_span",
        "_traces",
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
        self.id = self.token = self.field = self._forwarded = ""
        for key, value in metadata:
            if key == ID_KEY and _ID.fullmatch(str(value)):
                self.id = str(value)
            elif key == "grpc-previous-rpc-attempts":
                series.retries.inc()
            elif key == PEER_KEY:
                self._forwarded = str(value)
        self.id = self.id or f"{_prefix}-{next(_numbers):x}"

    def peer(self, connection: str) -> str:
        """The caller's address: its connection's, or the one that the web port saw.

        Args:
            connection: the peer as gRPC names it. Only the web port has a Unix socket to this server.
        """
        return self._forwarded if self._forwarded and connection.startswith("unix:") else connection

    def begin(self, context: grpc.ServicerContext) -> None:
        """A thread starts to work on it."""
        self._begun = True
        self._series.inside.inc()
        self._series.receive.observe(time.perf_counter() - self._arrived)
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
        status = context.code()
        code = otherwise if status is None and active else _code(status, context)
        seconds = time.perf_counter() - self._arrived
        self._series.inside.dec()
        self._series.duration.observe(seconds)
        self._series.ended[code].inc()
        reason = ""
        if code != "OK":
            reason = _text(context)
            if audit.failed(self._entry(code, self.peer(context.peer()), reason, seconds)):
                self._series.refused[code].inc()
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


def _code(status: grpc.StatusCode | None, context: Any) -> str:
    """The name of the status that the call was given, or that gRPC ended it with."""
    if status is not None:
        return status.name
    return "CANCELLED" if context.time_remaining() else "DEADLINE_EXCEEDED"


def _text(context: Any) -> str:
    details = context.details()
    return details.decode(errors="replace") if isinstance(details, bytes) else details or ""
