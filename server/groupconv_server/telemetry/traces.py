"""Traces: a span for each request, a child of its caller's span, with spans for plan, split, shards and merge.

The inner spans are made once the request is done, from times that the coordinator takes anyway. So a request that is
not sampled costs next to nothing. OpenTelemetry's SDK exports the spans (`configure`).
"""

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach
from opentelemetry.trace import ProxyTracerProvider, Span, SpanKind, Status, StatusCode, TracerProvider

from groupconv import __version__
from groupconv.convolution.report import ShardReport
from groupconv.errors import FailedPreconditionError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Environment variables that turn the export of spans on."""
LOOK = 1.0
"""Seconds between looks for a tracer provider, in a process that has none."""
SERVICE = "groupconv"
_CARRIED = frozenset(propagate.get_global_textmap().fields)
Facts = Mapping[str, str | int]


class Times(NamedTuple):
    """The times of one chain of steps, on the clock of time.perf_counter().

    Attributes:
        start: the chain begins.
        dispatched: its input is split.
        executed: its shards have run.
        merged: their outputs are merged.
        ran: for each shard the reports of its stages.
    """

    start: float
    dispatched: float
    executed: float
    merged: float
    ran: Sequence[Sequence[ShardReport]]


class Traces:
    """Makes the spans of a server.

    Args:
        provider: receives them; None is the process's own, set by `configure` or by a program that embeds the server.

    Attributes:
        next_look: requests that arrive earlier have no span, on the clock of time.perf_counter(). Nobody collects them.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._has_provider = provider is not None
        self.next_look = -math.inf
        self._tracer = trace.get_tracer("groupconv", __version__, tracer_provider=provider)
        self._offset = time.time() - time.perf_counter()

    def begin(
        self, method: str, request_id: str, metadata: Iterable[tuple[str, str | bytes]], arrived: float
    ) -> Span | None:
        """Start the span of a request and make it the current one; None if the process has no tracer provider.

        Args:
            method: full name of the RPC.
            request_id: of the request.
            metadata: of the request; `traceparent` in it names the span's parent.
            arrived: on the clock of time.perf_counter().
        """
        if not self._has_provider and (arrived < self.next_look or not self._find_provider(arrived)):
            return None
        sent = {key: value for key, value in metadata if key in _CARRIED and isinstance(value, str)}
        parent = propagate.extract(sent) if sent else Context()
        method = method.lstrip("/")
        service, _, name = method.rpartition("/")
        span = self._tracer.start_span(method, parent, kind=SpanKind.SERVER, start_time=self._at(arrived))
        if span.is_recording():
            facts = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name, "request.id": request_id}
            span.set_attributes(facts)
        attach(trace.set_span_in_context(span, parent))
        return span

    def _find_provider(self, now: float) -> bool:
        """True if the process has a tracer provider by now. This look-up is slow, so it happens once in `LOOK`."""
        self._has_provider = not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)
        self.next_look = -math.inf if self._has_provider else now + LOOK
        return self._has_provider

    def chains(self, planned: float, begun: float, chains: Sequence[Times]) -> None:
        """Make the spans of a convolution that was done for the current request.

        Args:
            planned: when planning began.
            begun: when it ended.
            chains: at least one, in order.
        """
        whole = self._tracer.start_span("convolve", start_time=self._at(planned))
        below = trace.set_span_in_context(whole)
        self._span("plan", planned, begun, below)
        for times in chains:
            self._span("split", times.start, times.dispatched, below, {"shards": len(times.ran)})
            for stages in times.ran:
                self._shard(times.dispatched, stages, below)
            self._span("merge", times.executed, times.merged, below)
        whole.end(self._at(chains[-1].merged))

    def _shard(self, start: float, stages: Sequence[ShardReport], parent: Context) -> None:
        """Make the spans of a shard: its stages end when it does, and the time before them is its wait."""
        first, computing = stages[0], sum(stage.compute_seconds for stage in stages)
        end = start + first.seconds
        facts: Facts = {"worker": first.worker, "shard": first.index, "attempts": first.attempts}
        span = self._tracer.start_span("shard", parent, start_time=self._at(start), attributes=facts)
        below = trace.set_span_in_context(span, parent)
        at = max(start, end - computing)
        self._span("queue", start, at, below)
        for stage in stages:
            self._span("compute", at, at + stage.compute_seconds, below, {"algorithm": stage.algorithm})
            at += stage.compute_seconds
        span.end(self._at(end))

    def _span(self, name: str, start: float, end: float, parent: Context, attributes: Facts | None = None) -> None:
        self._tracer.start_span(name, parent, start_time=self._at(start), attributes=attributes).end(self._at(end))

    def _at(self, seconds: float) -> int:
        return int((seconds + self._offset) * 1e9)


def end(span: Span, code: str, reason: str = "") -> None:
    """End a request's span with its status."""
    if span.is_recording():
        span.set_attribute("rpc.grpc.status", code)
        if code != "OK":
            span.set_status(Status(StatusCode.ERROR, f"{code}: {reason}"))
        span.end()


def flush() -> None:
    """Export what is left. A process that ends like any other does so by itself."""
    getattr(trace.get_tracer_provider(), "shutdown", lambda: None)()


def configure() -> bool:
    """Export this process's spans by OTLP, as the OTEL_ environment variables say; False if they do not.

    Raises:
        FailedPreconditionError: OpenTelemetry's SDK is not installed.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(map(os.environ.get, ENDPOINTS)):
        return False
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk import trace as sdk
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        wanted = next(filter(os.environ.get, ENDPOINTS))
        raise FailedPreconditionError(
            f"{wanted} asks for traces, and {error.name} is not installed: pip install 'groupconv[otel]'"
        ) from None
    os.environ.setdefault("OTEL_SERVICE_NAME", SERVICE)
    provider = sdk.TracerProvider(resource=Resource.create({"service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # flushed when the process exits
    return True
