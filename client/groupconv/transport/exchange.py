"""What a call says and hears, without its transport: a generator that both clients drive alike.

It yields each `Request`, is sent the answer's bytes or thrown the call's error, and returns what the call is for.
"""

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar


class Request(NamedTuple):
    """A call to make.

    Attributes:
        method: its path.
        message: its request, on the wire.
    """

    method: str
    message: bytes


class Done(NamedTuple):
    """What the generator returned."""

    value: Any


T = TypeVar("T")
Exchange = Generator[Request, bytes, T]


def advance(talk: Exchange[Any], answer: bytes | None = None, error: BaseException | None = None) -> Request | Done:
    """What is to be done next, after an answer or an error.

    Raises:
        BaseException: what the generator makes of the error.
    """
    try:
        return talk.send(answer) if error is None else talk.throw(error)  # type: ignore[arg-type]  # None begins it
    except StopIteration as end:
        return Done(end.value)
