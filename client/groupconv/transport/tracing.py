"""Spans of calls, for programs that have set OpenTelemetry's tracer provider.

The SDK does not depend on OpenTelemetry. If opentelemetry-instrumentation-grpc is installed
(`pip install 'groupconv[otel]'`), its interceptors make a span for every call and send the W3C `traceparent`, so that
the server's spans join the trace.
"""

import sys
from collections.abc import Sequence

import grpc
import grpc.aio


def traced(channel: grpc.Channel) -> grpc.Channel:
    """The channel, with spans for its calls if this program traces. Call it after the tracer provider is set."""
    if not _wanted("GrpcInstrumentorClient"):
        return channel
    from opentelemetry.instrumentation.grpc import client_interceptor, grpcext

    intercepted: grpc.Channel = grpcext.intercept_channel(channel, client_interceptor())
    return intercepted


def interceptors() -> Sequence[grpc.aio.ClientInterceptor]:
    """Interceptors that make spans for the calls of an asyncio channel; none if this program does not trace."""
    if not _wanted("GrpcAioInstrumentorClient"):
        return ()
    from opentelemetry.instrumentation.grpc import aio_client_interceptors

    clients: Sequence[grpc.aio.ClientInterceptor] = aio_client_interceptors()
    return clients


def _wanted(instrumentor: str) -> bool:
    """Whether this program has a tracer provider, and `instrumentor` is not tracing gRPC's calls already."""
    if "opentelemetry.trace" not in sys.modules:  # then there is no provider, and no import to wait for
        return False
    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return False
    try:
        from opentelemetry.instrumentation import grpc as instrumentation
    except ImportError:
        return False
    return not getattr(instrumentation, instrumentor)().is_instrumented_by_opentelemetry
