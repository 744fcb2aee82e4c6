"""An exchange: the requests of a call and the answers to them, without the transport.

An exchange is a generator. It yields each `Request` to send, receives the answer's bytes (or the call's error, thrown
in), and returns the value of the call. The blocking and the awaiting client run the same exchanges.
"""

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from groupconv.errors import DataLossError


class Request(NamedTuple):
    """A request to send.

    Attributes:
        method: path of the gRPC method.
        message: the request on the wire.
    """

    method: str
    message: bytes


class Done(NamedTuple):
    """The value that an exchange returned."""

    value: Any


T = TypeVar("T")
M = TypeVar("M", bound=Message)
Exchange = Generator[Request, bytes, T]


def advance(exchange: Exchange[Any], answer: bytes | None = None, error: BaseException | None = None) -> Request | Done:
    """Continue an exchange with an answer or an error, or start it with neither.

    Returns:
        The next request, or the value of the call.

    Raises:
        BaseException: whatever the exchange raises.
    """
    try:
        return exchange.send(answer) if error is None else exchange.throw(error)  # type: ignore[arg-type]  # None starts it
    except StopIteration as end:
        return Done(end.value)
    finally:
        del error  # it comes back, and knows this frame


def call_method(method: str, request: Message, kind: type[M]) -> Exchange[M]:
    """Call a method of `groupconv.v1`, as "LayerService/GetLayer", and decode its answer."""
    return decode((yield Request(f"/groupconv.v1.{method}", request.SerializeToString())), kind)


def decode(answer: bytes, kind: type[M]) -> M:
    """An answer as a message.

    Raises:
        DataLossError: the bytes are not such a message.
    """
    try:
        return kind.FromString(answer)
    except DecodeError:
        raise DataLossError(f"the server's answer of {len(answer)} bytes is not a {kind.DESCRIPTOR.name}") from None
