"""The channel to a server, and what its errors become."""

import json
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
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


@dataclass(frozen=True)
class Connection:
    """What a channel is opened with (see `groupconv.connect`).

    Raises:
        InvalidArgumentError: a token without TLS.
    """

    target: str
    token: str | None
    tls: bool
    root_certificates: bytes | None
    max_message_bytes: int

    def __post_init__(self) -> None:
        if self.token is not None and not self.encrypted:
            raise InvalidArgumentError("token", "TLS, or the token would travel in the clear", "no TLS")

    @property
    def encrypted(self) -> bool:
        """Whether TLS is used: asked for, or implied by certificates."""
        return self.tls or self.root_certificates is not None

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Message limits in both directions, and retries on UNAVAILABLE alone."""
        return [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.enable_retries", 1),
            ("grpc.max_reconnect_backoff_ms", 2000),  # a stream that resumes should not wait two minutes
            ("grpc.service_config", _SERVICE_CONFIG),
        ]

    def open(self) -> grpc.Channel:
        """A blocking channel."""
        if not self.encrypted:
            return grpc.insecure_channel(self.target, options=self.options)
        return grpc.secure_channel(self.target, self._credentials(), options=self.options)

    def open_aio(self) -> grpc.aio.Channel:
        """A channel of the running event loop."""
        if not self.encrypted:
            return grpc.aio.insecure_channel(self.target, options=self.options)
        return grpc.aio.secure_channel(self.target, self._credentials(), options=self.options)

    def _credentials(self) -> grpc.ChannelCredentials:
        credentials = grpc.ssl_channel_credentials(root_certificates=self.root_certificates)
        if self.token is None:
            return credentials
        return grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(self.token))


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
