"""The channel to a server, and what its errors become."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from groupconv.errors import BY_STATUS, GroupconvError, InvalidArgumentError, UnavailableError
from groupconv.transport.address import is_local
from groupconv.transport.malloc import expect_messages
from groupconv.transport.tracing import interceptors, traced
from groupconv.wire.tensors import MAX_MESSAGE_BYTES

Pem = bytes | str | os.PathLike[str]
"""PEM, or the path of a file that holds it."""
Metadata = Sequence[tuple[str, str]]
TOKEN_VARIABLE = "GROUPCONV_TOKEN"  # noqa: S105 - its name

_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "groupconv.v1.ConvolutionService"},
                    {"service": "groupconv.v1.ClusterService"},
                    {"service": "groupconv.v1.LayerService", "method": "GetLayer"},
                    {"service": "groupconv.v1.LayerService", "method": "ListLayers"},
                ],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    # nothing was computed, so nothing is computed twice; what changes something is not asked for twice
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)

TRANSPORT: tuple[tuple[str, Any], ...] = (
    ("grpc.http2.max_frame_size", 4 * 2**20),
    ("grpc.http2.lookahead_bytes", 16 * 2**20),
    ("grpc.http2.bdp_probe", 0),
)
"""For large messages, on both sides: fewer frames, a window that holds a message, no probing for its size."""


KEEPALIVE = 20.0
"""Seconds of silence during a call after which the server is asked whether it is there. It has half of that to answer:
without it a connection that a firewall forgot would be waited for until the deadline."""


class Opening(TypedDict, total=False):
    """The keywords of `Connection`."""

    token: str | None
    tls: bool
    root_certificates: Pem | None
    client_certificate: Pem | None
    client_key: Pem | None
    server_name: str | None
    allow_plaintext_token: bool
    max_message_bytes: int


@dataclass(frozen=True)
class Connection:
    """What a channel is opened with (see `groupconv.connect`).

    Raises:
        InvalidArgumentError: a token that would travel in the clear, half of a client's pair, or PEM that is none.
    """

    target: str
    token: str | None = None
    tls: bool = False
    root_certificates: Pem | None = None
    client_certificate: Pem | None = None
    client_key: Pem | None = None
    server_name: str | None = None
    allow_plaintext_token: bool = False
    max_message_bytes: int = MAX_MESSAGE_BYTES

    def __post_init__(self) -> None:
        if self.token is None:
            object.__setattr__(self, "token", os.environ.get(TOKEN_VARIABLE))
            if self.token is not None and not self.token.strip():  # a template whose value is missing
                raise InvalidArgumentError(TOKEN_VARIABLE, "a token, or the variable not set", "an empty value")
        if self.token and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise InvalidArgumentError("token", "ASCII without white space", f"{len(self.token)} characters")
        if self.token and not (self.encrypted or self.allow_plaintext_token or is_local(self.target)):
            expected = "TLS (tls=True or root_certificates=…), or allow_plaintext_token=True on a network you trust"
            raise InvalidArgumentError("token", expected, f"{self.target} in the clear")
        if (self.client_certificate is None) != (self.client_key is None):
            raise InvalidArgumentError(
                "client_certificate", "client_certificate and client_key together", "one of them"
            )

    @property
    def encrypted(self) -> bool:
        """Whether TLS is used: asked for, or implied by certificates."""
        return self.tls or self.root_certificates is not None or self.client_certificate is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call: the token."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Message limits in both directions, and retries on UNAVAILABLE alone."""
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            *TRANSPORT,
            ("grpc.enable_retries", 1),
            ("grpc.max_reconnect_backoff_ms", 2000),  # a stream that resumes should not wait two minutes
            ("grpc.keepalive_time_ms", int(KEEPALIVE * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE * 500)),
            ("grpc.http2.max_pings_without_data", 0),  # a call may wait for long and say nothing
            ("grpc.http2.ping_timeout_ms", int(KEEPALIVE * 500)),
            ("grpc.service_config", _SERVICE_CONFIG),
            *named,
        ]

    def open(self) -> grpc.Channel:
        """A blocking channel."""
        expect_messages()
        if not self.encrypted:
            return traced(grpc.insecure_channel(self.target, options=self.options))
        return traced(grpc.secure_channel(self.target, self._credentials(), options=self.options))

    def open_aio(self) -> grpc.aio.Channel:
        """A channel of the running event loop."""
        expect_messages()
        if not self.encrypted:
            return grpc.aio.insecure_channel(self.target, options=self.options, interceptors=interceptors())
        credentials = self._credentials()
        return grpc.aio.secure_channel(self.target, credentials, options=self.options, interceptors=interceptors())

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=_pem("root_certificates", self.root_certificates),
            private_key=_pem("client_key", self.client_key),
            certificate_chain=_pem("client_certificate", self.client_certificate),
        )


def _pem(field: str, given: Pem | None) -> bytes | None:
    if given is None:
        return None
    pem = given if isinstance(given, bytes) else Path(given).read_bytes()
    if b"-----BEGIN " not in pem:
        raise InvalidArgumentError(field, "PEM (-----BEGIN …), or the path of a file of it", f"{len(pem)} other bytes")
    return pem


async def from_aio_error(call: Any, error: grpc.RpcError) -> GroupconvError:
    """`from_rpc_error` for a call of grpc.aio that sends a stream.

    Where the server ends such a call while a message is on its way, grpc.aio reports that the message could not be
    sent, as INTERNAL, before it has read the status that says why, or over it. So that status is waited for; if it is
    lost, this is an UnavailableError: another attempt meets the status again.
    """
    for _ in range(20):
        if error.code() != grpc.StatusCode.INTERNAL or error.details() != "Internal error from Core":
            return from_rpc_error(error)
        await asyncio.sleep(0.01)
        error = grpc.aio.AioRpcError(
            await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
    return UnavailableError("the server ended the call while a message was sent; grpc.aio lost why")


def from_rpc_error(error: grpc.RpcError) -> GroupconvError:
    """The exception of this package that stands for a failed call: one class per status.

    The field at fault, if the server named one, is `error.field`; when to try again, if it said, `error.retry_after`;
    `error.request_id` finds the request in its log.
    """
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    cls = BY_STATUS.get(code.name, GroupconvError)
    result = cls(message)
    metadata: Any = error.trailing_metadata() or ()
    result.request_id = str(dict(metadata).get("x-request-id", ""))
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if isinstance(result, InvalidArgumentError) and detail.Unpack(bad) and bad.field_violations:
            result.field = bad.field_violations[0].field
        if detail.Unpack(retry):
            result.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return result
