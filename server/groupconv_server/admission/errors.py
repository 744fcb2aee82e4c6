"""Domain errors become gRPC statuses here, and only here."""

import functools
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from groupconv.errors import GroupconvError, InvalidArgumentError, ResourceExhaustedError
from groupconv_server.telemetry.request import ID_KEY, current

log = logging.getLogger(__name__)
Method = TypeVar("Method", bound=Callable[..., Any])


def answers_errors(method: Method) -> Method:
    """A servicer's method whose `GroupconvError`s become their status, and any other exception INTERNAL.

    INVALID_ARGUMENT carries a google.rpc.BadRequest with the path of the field.
    """

    @functools.wraps(method)
    def answered(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request, context)
        except Exception as error:  # noqa: BLE001 - all become statuses
            fail(context, method.__name__, error)

    return answered  # type: ignore[return-value]


def streams_errors(method: Method) -> Method:
    """The same for a method that yields its answers."""

    @functools.wraps(method)
    def answered(self: Any, requests: Any, context: grpc.ServicerContext) -> Any:
        try:
            yield from method(self, requests, context)
        except Exception as error:  # noqa: BLE001 - all become statuses
            fail(context, method.__name__, error)

    return answered  # type: ignore[return-value]


def fail(context: grpc.ServicerContext, name: str, error: Exception) -> NoReturn:
    """End a call of the method `name` with the status that stands for an exception; to be called where it is caught."""
    if isinstance(error, GroupconvError):
        abort(context, error)
    if isinstance(error, MemoryError):
        abort(context, ResourceExhaustedError("the server has not enough memory for this request"))
    log.error("%s failed", name, exc_info=error)
    context.abort(grpc.StatusCode.INTERNAL, "a defect of the server; its log has the details")  # raises
    raise AssertionError


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """The caller's deadline on the clock of time.monotonic(), or None."""
    left = context.time_remaining()
    # a client without a deadline reads as one centuries away
    return None if left is None or left > 10**8 else time.monotonic() + left


def abort(context: grpc.ServicerContext, error: GroupconvError) -> NoReturn:
    """End a request with an error's status, with field, time to wait and request id in google.rpc details."""
    details: list[Message] = []
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    request = current.get()
    if isinstance(error, InvalidArgumentError):
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.field, description=str(error))
        details.append(bad)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=error.retry_after))
        details.append(retry)
    if request is not None:
        details.append(error_details_pb2.RequestInfo(request_id=request.id))
        metadata = ((ID_KEY, request.id),)
        request.field = error.field if isinstance(error, InvalidArgumentError) else ""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.status), message=str(error))
    for detail in details:
        status.details.add().Pack(detail)
    made = rpc_status.to_status(status)
    context.set_trailing_metadata(made.trailing_metadata + metadata)
    context.abort(made.code, made.details)  # raises
    raise AssertionError
