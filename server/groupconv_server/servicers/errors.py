"""Domain errors become gRPC statuses here, and only here."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from groupconv.errors import GroupconvError, InvalidArgumentError

log = logging.getLogger(__name__)
Method = TypeVar("Method", bound=Callable[..., Any])


def answers_errors(method: Method) -> Method:
    """A servicer's method whose `GroupconvError`s become their status, and any other exception INTERNAL.

    INVALID_ARGUMENT carries a google.rpc.BadRequest with the path of the field.
    """

    @functools.wraps(method)
    def answered(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        with _statuses(context, method.__name__):
            return method(self, request, context)

    return answered  # type: ignore[return-value]


def streams_errors(method: Method) -> Method:
    """The same for a method that yields its answers."""

    @functools.wraps(method)
    def answered(self: Any, requests: Any, context: grpc.ServicerContext) -> Any:
        with _statuses(context, method.__name__):
            yield from method(self, requests, context)

    return answered  # type: ignore[return-value]


@contextlib.contextmanager
def _statuses(context: grpc.ServicerContext, name: str) -> Iterator[None]:
    try:
        yield
    except GroupconvError as error:
        _abort(context, error)
    except MemoryError:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server has not enough memory for this request")
    except Exception:
        log.exception("%s failed", name)
        context.abort(grpc.StatusCode.INTERNAL, "a defect of the server; its log has the details")


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """The caller's deadline on the clock of time.monotonic(), or None."""
    left = context.time_remaining()
    # a client without a deadline reads as one centuries away
    return None if left is None or left > 10**8 else time.monotonic() + left


def _abort(context: grpc.ServicerContext, error: GroupconvError) -> NoReturn:
    details = []
    if isinstance(error, InvalidArgumentError):
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.field, description=str(error))
        packed = any_pb2.Any()
        packed.Pack(bad)
        details.append(packed)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.status), message=str(error), details=details)
    context.abort_with_status(rpc_status.to_status(status))  # raises
    raise AssertionError
