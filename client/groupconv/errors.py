"""One exception per gRPC status, for the SDK, the engines and the server.

An exception that the server raises arrives at the client as the same class: an `InvalidArgumentError` with its field.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar, Self


class GroupconvError(Exception):
    """Base of every exception of this package.

    Attributes:
        status: name of the gRPC status code.
        request_id: the server's id of the request, which is also in its log; empty if there was no request.
        retry_after: seconds after which the server suggests another attempt, or None.
    """

    status: ClassVar[str] = "UNKNOWN"
    request_id: str = ""

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class InvalidArgumentError(GroupconvError, ValueError):
    """An argument is invalid.

    Attributes:
        field: the argument, as a path such as `steps[1].spec.stride`.
        expected: what would be valid.
        got: what came.

    Example:
        >>> raise InvalidArgumentError("groups", "a divisor of 96 input channels", 5)
        Traceback (most recent call last):
        ...
        groupconv.errors.InvalidArgumentError: groups: expected a divisor of 96 input channels, got 5
    """

    status: ClassVar[str] = "INVALID_ARGUMENT"

    def __init__(self, field: str, expected: str = "", got: object = None) -> None:
        self.field, self.expected, self.got = field, expected, got
        super().__init__(f"{field}: expected {expected}, got {_shown(got)}" if expected else field)

    def within(self, path: str) -> Self:
        """The same error with a longer path: `stride` within `steps[1].spec` is `steps[1].spec.stride`."""
        return type(self)(f"{path}.{self.field}", self.expected, self.got)


class UnknownArgumentError(InvalidArgumentError, TypeError):
    """A keyword argument is unknown. It is a TypeError, too, as for any other Python function."""

    @classmethod
    def of(cls, name: str, got: object, known: Iterable[str]) -> Self:
        """The error for `name`, with the most similar known name.

        Example:
            >>> print(UnknownArgumentError.of("strides", 2, ["padding", "stride"]))
            strides: expected one of the arguments padding, stride (did you mean stride?), got 2
        """
        names = sorted(known)
        similar = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {similar[0]}?)" if similar else ""
        return cls(name, f"one of the arguments {', '.join(names)}{hint}", got)


class ResourceExhaustedError(GroupconvError):
    """A limit of the server on memory, queue length, rate or message size is reached."""

    status: ClassVar[str] = "RESOURCE_EXHAUSTED"


class NotFoundError(GroupconvError, KeyError):
    """Something named in the request does not exist."""

    status: ClassVar[str] = "NOT_FOUND"
    __str__ = Exception.__str__  # KeyError's would print the repr of the message


class AlreadyExistsError(GroupconvError):
    """Something with this name exists already."""

    status: ClassVar[str] = "ALREADY_EXISTS"


class FailedPreconditionError(GroupconvError):
    """The system is not in the state that the request needs, for example it has no GPU."""

    status: ClassVar[str] = "FAILED_PRECONDITION"


class UnavailableError(GroupconvError, ConnectionError):
    """The server or all its workers are away. Another attempt later may succeed."""

    status: ClassVar[str] = "UNAVAILABLE"


class DeadlineExceededError(GroupconvError, TimeoutError):
    """The answer did not arrive within the caller's timeout."""

    status: ClassVar[str] = "DEADLINE_EXCEEDED"


class CancelledError(GroupconvError):
    """The caller cancelled the call."""

    status: ClassVar[str] = "CANCELLED"


class AbortedError(GroupconvError):
    """A concurrent operation interfered."""

    status: ClassVar[str] = "ABORTED"


class OutOfRangeError(GroupconvError):
    """An index is past the end."""

    status: ClassVar[str] = "OUT_OF_RANGE"


class DataLossError(GroupconvError):
    """Data is corrupt: a checksum does not match, or an answer cannot be decoded."""

    status: ClassVar[str] = "DATA_LOSS"


class UnauthenticatedError(GroupconvError):
    """The call has no valid credentials."""

    status: ClassVar[str] = "UNAUTHENTICATED"


class PermissionDeniedError(GroupconvError, PermissionError):
    """The credentials do not allow this call."""

    status: ClassVar[str] = "PERMISSION_DENIED"


class UnimplementedError(GroupconvError, NotImplementedError):
    """The server does not have this method."""

    status: ClassVar[str] = "UNIMPLEMENTED"


class InternalError(GroupconvError):
    """A defect of the server or a driver. The server's log has the details."""

    status: ClassVar[str] = "INTERNAL"


_CLASSES: list[type[GroupconvError]] = [GroupconvError, *GroupconvError.__subclasses__()]
BY_STATUS = {cls.status: cls for cls in _CLASSES}
"""The exception for each gRPC status."""


class ConnectError(UnavailableError):
    """No connection to the server. The message names the cause, and the arguments and flags that mend it.

    Attributes:
        target: the server's address as the caller gave it.
    """

    def __init__(self, target: str, message: str) -> None:
        super().__init__(f"{target}: {message}")
        self.target = target


class NoServerError(ConnectError):
    """Nothing accepts connections at the address or answers there, or its host name is unknown."""


class TlsError(ConnectError):
    """Client and server do not agree on TLS: one of them does not use it, or a certificate is not accepted."""


class ForeignServerError(ConnectError, UnimplementedError):
    """The address belongs to a server that is not groupconv."""


class Words(str):
    """A description of the value that came, which a message shows without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _shown(value: object) -> str:
    """`repr`, shortened to at most 120 characters; an array's shape and dtype."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type):
        return f"an array {value.shape} {value.dtype}"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}… ({len(text)} characters)"
