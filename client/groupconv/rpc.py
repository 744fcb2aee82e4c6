"""The channel to a server, and what its errors become."""

import json
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from groupconv.errors import BY_STATUS, GroupconvError, InvalidArgumentError

_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "groupconv.v1.ConvolutionService"}, {"service": "groupconv.v1.ClusterService"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    # nothing was computed, so nothing is computed twice
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


def channel_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Message limits in both directions, and retries on UNAVAILABLE alone."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", _SERVICE_CONFIG),
    ]


def open_channel(
    target: str, *, max_message_bytes: int, token: str | None, root_certificates: bytes | None, tls: bool
) -> grpc.Channel:
    """A channel to `target` ("host:port" or "unix:path"), with TLS if asked or if certificates are given."""
    options = channel_options(max_message_bytes)
    if not (tls or root_certificates):
        return grpc.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(root_certificates=root_certificates)
    if token is not None:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return grpc.secure_channel(target, credentials, options=options)


def from_rpc_error(error: grpc.RpcError) -> GroupconvError:
    """The exception of this package that stands for a failed call: one class per status.

    The field at fault, if the server named one, is `error.field`.
    """
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    cls = BY_STATUS.get(code.name, GroupconvError)
    result = cls(message)
    if isinstance(result, InvalidArgumentError):
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        for detail in status.details if status else ():
            bad = error_details_pb2.BadRequest()
            if detail.Unpack(bad) and bad.field_violations:
                result.field = bad.field_violations[0].field
    return result
