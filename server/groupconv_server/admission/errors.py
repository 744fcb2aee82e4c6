"""Exceptions become gRPC statuses here, and only here."""

import logging
from datetime import timedelta
from typing import NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from groupconv.errors import GroupconvError, InvalidArgumentError, ResourceExhaustedError
from groupconv_server.telemetry.request import ID_KEY, current

log = logging.getLogger(__name__)


def fail(context: grpc.ServicerContext, method: str, error: Exception) -> NoReturn:
    """End a call with the status of an exception; any but a `GroupconvError` or MemoryError is INTERNAL.

    Args:
        context: of the call.
        method: its full name.
        error: that was caught.
    """
    if isinstance(error, GroupconvError):
        abort(context, error)
    if isinstance(error, MemoryError):
        abort(context, ResourceExhaustedError("the server has not enough memory for this request"))
    log.error("%s failed", method.rpartition("/")[2], exc_info=error)
    context.abort(grpc.StatusCode.INTERNAL, "a defect of the server; its log has the details")  # raises
    raise AssertionError


def abort(context: grpc.ServicerContext, error: GroupconvError) -> NoReturn:
    """End a call with an error's status. Its google.rpc details have the field, the time to wait and the request id."""
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
    rpc_error = rpc_status.to_status(status)
    context.set_trailing_metadata(rpc_error.trailing_metadata + metadata)
    context.abort(rpc_error.code, rpc_error.details)  # raises
    raise AssertionError
