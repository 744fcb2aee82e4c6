"""One exception per gRPC status, raised alike by the SDK, the engines and the server.

The names after the status make `except` readable on both sides of the wire: what the server raises as
`InvalidArgumentError` arrives at the client as `InvalidArgumentError`, with the field it is about.
"""

from typing import ClassVar, Self


class GroupconvError(Exception):
    """Base of every error of this package.

    Attributes:
        status: the name of its gRPC status code.
        request_id: what the server called the request, if it came from one: its log has the same id.
        retry_after: seconds after which the server says trying again may help; None where it says nothing.
    """

    status: ClassVar[str] = "UNKNOWN"
    request_id: str = ""

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class InvalidArgumentError(GroupconvError, ValueError):
    """An argument cannot be meant: names the field, what was expected and what came.

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
        """The same refusal seen from outside: `stride` within `steps[1].spec` is `steps[1].spec.stride`."""
        return type(self)(f"{path}.{self.field}", self.expected, self.got)


class ResourceExhaustedError(GroupconvError):
    """More memory, queue or message than the configured limit allows."""

    status: ClassVar[str] = "RESOURCE_EXHAUSTED"


class NotFoundError(GroupconvError, KeyError):
    """Something named in the request does not exist."""

    status: ClassVar[str] = "NOT_FOUND"
    __str__ = Exception.__str__  # KeyError's would print the repr of the message


class AlreadyExistsError(GroupconvError):
    """Something by that name exists already."""

    status: ClassVar[str] = "ALREADY_EXISTS"


class FailedPreconditionError(GroupconvError):
    """The request is fine, the state of the system is not (no GPU, no worker of that kind)."""

    status: ClassVar[str] = "FAILED_PRECONDITION"


class UnavailableError(GroupconvError, ConnectionError):
    """The server or every worker is away; trying again later may succeed."""

    status: ClassVar[str] = "UNAVAILABLE"


class DeadlineExceededError(GroupconvError, TimeoutError):
    """The answer did not come within the caller's timeout."""

    status: ClassVar[str] = "DEADLINE_EXCEEDED"


class CancelledError(GroupconvError):
    """The caller cancelled."""

    status: ClassVar[str] = "CANCELLED"


class AbortedError(GroupconvError):
    """A concurrent operation got in the way."""

    status: ClassVar[str] = "ABORTED"


class OutOfRangeError(GroupconvError):
    """Past the end of what exists."""

    status: ClassVar[str] = "OUT_OF_RANGE"


class DataLossError(GroupconvError):
    """Stored data does not match its checksum."""

    status: ClassVar[str] = "DATA_LOSS"


class UnauthenticatedError(GroupconvError):
    """No valid credentials came with the call."""

    status: ClassVar[str] = "UNAUTHENTICATED"


class PermissionDeniedError(GroupconvError, PermissionError):
    """The credentials do not allow this call."""

    status: ClassVar[str] = "PERMISSION_DENIED"


class UnimplementedError(GroupconvError, NotImplementedError):
    """The server does not offer this."""

    status: ClassVar[str] = "UNIMPLEMENTED"


class InternalError(GroupconvError):
    """A defect of the server; its log has the details."""

    status: ClassVar[str] = "INTERNAL"


BY_STATUS: dict[str, type[GroupconvError]] = {
    cls.status: cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, GroupconvError)
}


def _shown(value: object) -> str:
    """`repr`, cut short: a message never repeats 10 KB of what came."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}… ({len(text)} characters)"
