"""Traces: a span for each request, with its plan, split, shards and merge, continued from the caller's.

The spans below a request's are made once it is done, from the times the coordinator takes anyway: a request that is not
sampled costs nothing but that question. Where the spans go is the business of OpenTelemetry's SDK (`configure`).
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
from groupconv.convolution.plan import ShardReport
from groupconv.errors import FailedPreconditionError
from groupconv_server.telemetry.request import Request

ASKED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Environment variables that ask for an export."""
ASK = 1.0
"""Seconds after which a process without a tracer provider is asked for one again."""
SERVICE = "groupconv"
_CARRIED = frozenset(propagate.get_global_textmap().fields)
Facts = Mapping[str, str | int]


class Times(NamedTuple):
    """When what happened to a chain of steps, on the clock of time.perf_counter().

    Attributes:
        start, dispatched, executed, merged: the ends of split, of execution and of merging.
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
        provider: takes them; None is the process's own, as `configure` or the program that embeds the server set it.

    Attributes:
        next_look: requests that arrive earlier have no span: nobody takes them. On the clock of time.perf_counter().
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._heard = provider is not None
        self.next_look = -math.inf
        self._tracer = trace.get_tracer("groupconv", __version__, tracer_provider=provider)
        self._offset = time.time() - time.perf_counter()

    def begin(self, request: Request, metadata: Iterable[tuple[str, str | bytes]], arrived: float) -> Span | None:
        """The span of a request, current from now on; a child of the caller's, if it sent one. None if nobody listens.

        Args:
            request: that begins.
            metadata: of it, with `traceparent`.
            arrived: on the clock of time.perf_counter().
        """
        if not self._heard and (arrived < self.next_look or not self._listened(arrived)):
            return None
        sent = {key: value for key, value in metadata if key in _CARRIED and isinstance(value, str)}
        parent = propagate.extract(sent) if sent else Context()
        method = request.method.lstrip("/")
        service, _, name = method.rpartition("/")
        span = self._tracer.start_span(method, parent, kind=SpanKind.SERVER, start_time=self._at(arrived))
        request.traced = span.is_recording()
        if request.traced:
            span.set_attributes(
                {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name, "request.id": request.id}
            )
        attach(trace.set_span_in_context(span, parent))
        return span

    def _listened(self, now: float) -> bool:
        """Whether the process has a tracer provider by now: to ask OpenTelemetry takes longer than all else here."""
        self._heard = not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)
        self.next_look = -math.inf if self._heard else now + ASK
        return self._heard

    def chains(self, planned: float, begun: float, chains: Sequence[Times]) -> None:
        """Spans of a convolution that was done for the present request.

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
        """A shard, its wait and each of its stages: these end with it, the wait is what is left."""
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


def configure() -> bool:
    """Have this process send its spans by OTLP, as the OTEL_ variables of the environment say; False if none asks.

    Raises:
        FailedPreconditionError: OpenTelemetry's SDK is not installed.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(map(os.environ.get, ASKED)):
        return False
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk import trace as sdk
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        wanted = next(filter(os.environ.get, ASKED))
        raise FailedPreconditionError(
            f"{wanted} asks for traces, and {error.name} is not installed: pip install 'groupconv[otel]'"
        ) from None
    os.environ.setdefault("OTEL_SERVICE_NAME", SERVICE)
    provider = sdk.TracerProvider(resource=Resource.create({"service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # flushed when the process exits
    return True
