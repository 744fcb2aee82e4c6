"""The unary methods of the API as endpoints of connectrpc, which speaks gRPC-Web and Connect.

Messages in protobuf's binary form pass through as they are: the gRPC server decodes them. Messages in JSON are decoded
here, because that server knows none.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from groupconv.v1 import cluster_pb2, convolution_pb2, layer_pb2, network_pb2
from groupconv_server.telemetry.request import ID_KEY
from groupconv_server.web.gateway import Gateway
from groupconv_server.web.rest_tensors import JSON_ANSWER_BYTES, JSON_BYTES

SERVICES: tuple[ServiceDescriptor, ...] = (
    convolution_pb2.DESCRIPTOR.services_by_name["ConvolutionService"],
    cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"],
    layer_pb2.DESCRIPTOR.services_by_name["LayerService"],
    network_pb2.DESCRIPTOR.services_by_name["NetworkService"],
)
"""Served on the web port. Shared memory is not: a browser has none, and regions belong to connections."""


class Text(NamedTuple):
    """A message in JSON that is not parsed yet, and its class."""

    raw: bytes
    kind: Any


class Binary:
    """connectrpc's codec "proto": bytes stay bytes."""

    def name(self) -> str:
        """Its content type's name."""
        return "proto"

    def decode(self, data: bytes | bytearray, message_class: Any) -> bytes:  # noqa: ARG002 - connectrpc's signature
        """The bytes."""
        return bytes(data)

    def encode(self, message: bytes) -> bytes:
        """The bytes."""
        return message


class Json(Binary):
    """connectrpc's codec "json": protobuf's JSON form, in which bytes are base64.

    connectrpc calls it in the thread of all connections, where 4 MiB of JSON would take seconds. So `_call` parses.
    """

    def name(self) -> str:
        """Its content type's name."""
        return "json"

    def decode(self, data: bytes | bytearray, message_class: Any) -> Text:  # type: ignore[override]
        """The text. connectrpc reports any exception as INVALID_ARGUMENT."""
        if len(data) > JSON_BYTES:
            raise ValueError(f"expected at most {JSON_BYTES} bytes of JSON; larger messages go as application/proto")
        return Text(bytes(data), message_class)


def from_json(text: Text) -> bytes:
    """The binary form of a message in JSON.

    Raises:
        ConnectError: INVALID_ARGUMENT, for what is none.

    Example:
        >>> from groupconv.v1.cluster_pb2 import GetClusterRequest
        >>> from_json(Text(b"{}", GetClusterRequest))
        b''
    """
    try:
        message: bytes = json_format.Parse(text.raw, text.kind()).SerializeToString()
    except Exception as error:  # noqa: BLE001 - protobuf raises several kinds
        raise ConnectError(Code.INVALID_ARGUMENT, f"unmarshal message: {error}") from None
    return message


def to_json(raw: bytes, kind: Any) -> bytes:
    """A message of a class in JSON.

    Raises:
        ConnectError: RESOURCE_EXHAUSTED, for one that is too large.
    """
    if len(raw) > JSON_ANSWER_BYTES:
        why = f"the answer has {len(raw)} bytes, and JSON at most {JSON_ANSWER_BYTES}: call with application/proto"
        raise ConnectError(Code.RESOURCE_EXHAUSTED, why)
    return json_format.MessageToJson(kind.FromString(raw), indent=None).encode()


class TokenCheck:
    """An interceptor of connectrpc, which runs before it reads a message: refuses a caller without a token.

    Args:
        gateway: has the refusal.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def on_start(self, ctx: RequestContext[Any, Any]) -> None:
        """Raise the refusal."""
        path = f"/{ctx.method.service_name}/{ctx.method.name}"
        await self._gateway.refuse_without_token(path, ctx.request_headers, ctx.client_address or "")

    async def on_end(self, token: None, ctx: RequestContext[Any, Any], error: Exception | None, /) -> None:
        """Do nothing."""


class Methods(ConnectASGIApplication[Gateway]):
    """An ASGI application with every unary method.

    Args:
        gateway: calls them.
        limit: bytes of a message, at most.
    """

    def __init__(self, gateway: Gateway, limit: int) -> None:
        codecs: list[Codec[Any, Any]] = [Binary(), Json()]
        super().__init__(
            service=gateway,
            endpoints=endpoints,
            interceptors=[TokenCheck(gateway)],
            read_max_bytes=limit,
            codecs=codecs,
            compressions=[],  # elements hardly shrink, and what does not expand is no bomb
        )

    @property
    def path(self) -> str:
        """Prefix of its paths."""
        return "/"


def endpoints(gateway: Gateway) -> Mapping[str, Any]:
    """An endpoint for each unary method, by its path."""
    return {path: _endpoint(gateway, path, method) for path, method in unary_methods(SERVICES)}


def unary_methods(services: Iterable[ServiceDescriptor]) -> Iterator[tuple[str, MethodDescriptor]]:
    """The path and the descriptor of each method that takes one message and returns one.

    Example:
        >>> [path for path, _ in unary_methods(SERVICES[:1])]
        ['/groupconv.v1.ConvolutionService/Convolve', '/groupconv.v1.ConvolutionService/PlanConvolution']
    """
    for service in services:
        for method in service.methods:
            if not (method.client_streaming or method.server_streaming):
                yield f"/{service.full_name}/{method.name}", method


def _endpoint(gateway: Gateway, path: str, method: MethodDescriptor) -> Endpoint[Any, Any]:
    info: MethodInfo[Any, Any] = MethodInfo(
        name=method.name,
        service_name=method.containing_service.full_name,
        input=message_factory.GetMessageClass(method.input_type),
        output=message_factory.GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )
    run: Callable[[Any, RequestContext[Any, Any]], Awaitable[Any]] = partial(_call, gateway, path)
    return Endpoint.unary(info, run)


async def _call(gateway: Gateway, path: str, message: bytes | Text, ctx: RequestContext[Any, Any]) -> bytes:
    milliseconds = ctx.timeout_ms
    timeout = None if milliseconds is None else max(0.0, milliseconds / 1000)
    sent = await gateway.beside(from_json, message) if isinstance(message, Text) else message
    raw, request_id = await gateway.call(path, sent, ctx.request_headers, ctx.client_address or "", timeout)
    ctx.response_headers[ID_KEY] = request_id
    return await gateway.beside(to_json, raw, ctx.method.output) if isinstance(message, Text) else raw
