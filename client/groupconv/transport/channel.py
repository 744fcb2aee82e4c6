"""The channel to a server, and its errors as exceptions of this package."""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from groupconv.errors import BY_STATUS, GroupconvError, InvalidArgumentError, UnauthenticatedError, UnavailableError
from groupconv.transport.address import is_local
from groupconv.transport.bounded import SMALL, read_at_most
from groupconv.transport.malloc import expect_messages
from groupconv.transport.spread import OWN, AioSpread, BlockingSpread
from groupconv.transport.tracing import interceptors, traced
from groupconv.wire.tensors import MAX_MESSAGE_BYTES

Pem = bytes | str | os.PathLike[str]
"""PEM, or the path of a file that holds it."""
Metadata = Sequence[tuple[str, str]]
TOKEN_VARIABLE = "GROUPCONV_TOKEN"  # noqa: S105 - its name

_READING = {
    "LayerService": ("GetLayer", "ListLayers"),
    "NetworkService": ("GetNetwork", "ListNetworks", "PlanNetwork", "PlanNetworkStream", "RunNetwork"),
}
_SERVICE_CONFIG: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [
                {"service": "groupconv.v1.ConvolutionService"},
                {"service": "groupconv.v1.ClusterService"},
                *({"service": f"groupconv.v1.{s}", "method": m} for s, methods in _READING.items() for m in methods),
            ],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # an unavailable server has computed nothing; methods that change state are not listed
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_IN_TURN: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
"""Each call goes to the next address that has a connection; gRPC's default keeps to the first."""

TRANSPORT: tuple[tuple[str, Any], ...] = (
    ("grpc.http2.max_frame_size", 4 * 2**20),
    ("grpc.http2.lookahead_bytes", 16 * 2**20),
    ("grpc.http2.bdp_probe", 0),
)
"""Options for large messages, on both sides: large frames, a window that holds a message, no bandwidth probing."""

KEEPALIVE = 20.0
"""Seconds without data during a call before a ping; the server has half of that to answer. Without pings a connection
that a firewall dropped would only end at the call's deadline."""


LOST = "the server ended the call while a message was being sent, and grpc.aio lost its status"
"""The words of an UnavailableError for it."""

RETRY_ROOM = 2**20
"""Bytes beside a message that count in the buffer of a call's retries."""

MOST_BYTES = 2**31 - 1
"""Largest value of a channel's options, such as the bytes of a message: gRPC keeps them as C's int."""

MOST_CONNECTIONS = 64
"""Connections of one client, at most."""


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
    connections: int
    balance: bool


@dataclass(frozen=True)
class Connection:
    """How to open a channel; see `groupconv.connect` for the fields.

    Raises:
        InvalidArgumentError: a token would travel unencrypted, or a certificate comes without its key or is not PEM.
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
    connections: int = 1
    balance: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not self.target:
            raise InvalidArgumentError("target", "an address, as 'host:port' or 'unix:path'", self.target)
        if isinstance(self.connections, bool) or self.connections not in range(1, MOST_CONNECTIONS + 1):
            raise InvalidArgumentError("connections", f"an integer from 1 to {MOST_CONNECTIONS}", self.connections)
        bytes_ = self.max_message_bytes
        if isinstance(bytes_, bool) or not isinstance(bytes_, int) or bytes_ not in range(1, MOST_BYTES + 1):
            raise InvalidArgumentError("max_message_bytes", f"an integer from 1 to {MOST_BYTES}", bytes_)
        if self.token is None:
            object.__setattr__(self, "token", os.environ.get(TOKEN_VARIABLE))
            if self.token is not None and not self.token.strip():  # probably a template without a value
                raise InvalidArgumentError(TOKEN_VARIABLE, "a token, or the variable not set", "an empty value")
        if self.token and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise InvalidArgumentError("token", "ASCII without white space", f"{len(self.token)} characters")
        if self.token and not (self.encrypted or self.allow_plaintext_token or is_local(self.target)):
            expected = "TLS (tls=True or root_certificates=…), or allow_plaintext_token=True on a trusted network"
            raise InvalidArgumentError("token", expected, f"{self.target} without TLS")
        if (self.client_certificate is None) != (self.client_key is None):
            raise InvalidArgumentError(
                "client_certificate", "client_certificate and client_key together", "only one of them"
            )

    @property
    def encrypted(self) -> bool:
        """Whether TLS is used: requested by `tls`, or implied by certificates."""
        return self.tls or self.root_certificates is not None or self.client_certificate is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call: the token."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Channel options: message limits, retries on UNAVAILABLE, keepalive."""
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            *TRANSPORT,
            ("grpc.enable_retries", 1),
            # requests up to this are kept, and sent again if the connection is lost; by default those up to 256 KiB
            ("grpc.per_rpc_retry_buffer_size", min(self.max_message_bytes + RETRY_ROOM, MOST_BYTES)),
            ("grpc.max_reconnect_backoff_ms", 2000),  # the default of two minutes is too long for a stream that resumes
            ("grpc.keepalive_time_ms", int(KEEPALIVE * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE * 500)),
            ("grpc.http2.max_pings_without_data", 0),  # no limit: a call may wait for minutes without data
            ("grpc.http2.ping_timeout_ms", int(KEEPALIVE * 500)),
            ("grpc.service_config", json.dumps(_SERVICE_CONFIG | (_IN_TURN if self.balance else {}))),
            *(OWN if self.connections > 1 else ()),
            *named,
        ]

    def bound(self, kind: Callable[[str], Any], method: str) -> Any:
        """A method of a channel, without serializers: bytes in, bytes out.

        Args:
            kind: of the channel, as `channel.unary_unary`.
            method: its path.

        Raises:
            InvalidArgumentError: it changes what one server keeps, and `balance` sends calls to several.
        """
        if self.balance and method.rpartition("/")[2].startswith(("Load", "Unload")):
            raise InvalidArgumentError(
                "balance", "a client of one server, to load and unload layers and networks", True
            )
        return kind(method)

    def open(self) -> grpc.Channel:
        """Open a blocking channel. Connects at the first call."""
        expect_messages()
        if self.connections > 1:
            return cast("grpc.Channel", BlockingSpread([self._opened() for _ in range(self.connections)]))
        return self._opened()

    def _opened(self) -> grpc.Channel:
        if not self.encrypted:
            return traced(grpc.insecure_channel(self.target, options=self.options))
        return traced(grpc.secure_channel(self.target, self._credentials(), options=self.options))

    def open_aio(self) -> grpc.aio.Channel:
        """Open a channel on the running event loop. Connects at the first call."""
        expect_messages()
        if self.connections > 1:
            return cast("grpc.aio.Channel", AioSpread([self._opened_aio() for _ in range(self.connections)]))
        return self._opened_aio()

    def _opened_aio(self) -> grpc.aio.Channel:
        if not self.encrypted:
            return grpc.aio.insecure_channel(self.target, options=self.options, interceptors=interceptors())
        credentials = self._credentials()
        return grpc.aio.secure_channel(self.target, credentials, options=self.options, interceptors=interceptors())

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=pem("root_certificates", self.root_certificates),
            private_key=pem("client_key", self.client_key),
            certificate_chain=pem("client_certificate", self.client_certificate),
        )


def pem(field: str, source: Pem | None) -> bytes | None:
    """The bytes of a PEM argument, read from its file if need be.

    Raises:
        InvalidArgumentError: it is not PEM.
        OSError: the file cannot be read.
    """
    if source is None:
        return None
    content = source if isinstance(source, bytes) else read_at_most(source, SMALL, field, "a PEM file")
    if b"-----BEGIN " not in content:
        expected = "PEM (-----BEGIN …), or the path of a PEM file"
        raise InvalidArgumentError(field, expected, f"{len(content)} bytes of something else")
    return content


async def from_aio_error(call: Any, error: grpc.RpcError) -> GroupconvError:
    """`from_rpc_error` for a call of grpc.aio that sends a stream.

    If the server ends such a call while a message is being sent, grpc.aio reports INTERNAL for the failed send, before
    or instead of the server's status. So this waits for the server's status. If it is lost, the result is an
    UnavailableError: another attempt receives the status again.
    """
    for _ in range(20):
        if error.code() != grpc.StatusCode.INTERNAL or error.details() != "Internal error from Core":
            return from_rpc_error(error)
        await asyncio.sleep(0.01)
        error = grpc.aio.AioRpcError(
            await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
    return UnavailableError(LOST)


def from_rpc_error(error: grpc.RpcError) -> GroupconvError:
    """The exception of this package for a failed call: one class per gRPC status.

    If the server sent them, `field` is the argument at fault, `retry_after` the seconds before another attempt, and
    `request_id` finds the request in the server's log.
    """
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    cls = BY_STATUS.get(code.name, GroupconvError)
    if code is grpc.StatusCode.CANCELLED and message == code.name:
        # gRPC's own words for a call that reaches a server as it stops; nobody here has cancelled it
        cls, message = UnavailableError, "the server stopped while the call was on its way: try again"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and message == "Deadline Exceeded":  # gRPC's words in the client
        message = "the server did not answer within the timeout (timeout=, --timeout)"
    if cls is UnauthenticatedError:
        message += f"; give a token with token= or in {TOKEN_VARIABLE} (--token-file)"
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
