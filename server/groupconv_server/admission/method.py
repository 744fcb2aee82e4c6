"""What the calls of one method share."""

from typing import Any

from groupconv_server.telemetry.requests import MethodSeries


class Method:
    """A method of a service.

    Args:
        name: full name of the method.
        handler: of the method, as gRPC made it.
        series: counts its calls.
        awaited: False if a stopping server does not wait for its calls.

    Attributes:
        behavior: the method's function.
        decode, encode: of its messages; None for a method that takes or returns bytes.
        streams_in, streams_out: True if it takes a stream of messages, and if it returns one.
        brief: True if it takes one message and returns one.
    """

    def __init__(self, name: str, handler: Any, series: MethodSeries, *, awaited: bool) -> None:
        self.name, self.series, self.awaited = name, series, awaited
        self.behavior: Any = getattr(handler, kind_of(handler))
        self.decode, self.encode = handler.request_deserializer, handler.response_serializer
        self.streams_in, self.streams_out = handler.request_streaming, handler.response_streaming
        self.brief = not (self.streams_in or self.streams_out)


def kind_of(handler: Any) -> str:
    """The attribute of a handler that holds its method, as "stream_unary"."""
    sides = (
        "stream" if streaming else "unary" for streaming in (handler.request_streaming, handler.response_streaming)
    )
    return "_".join(sides)
