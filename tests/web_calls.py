"""Calls to the web port through a real client, and over plain HTTP."""

import http.client
import json
import socket
from urllib.parse import urlsplit

import anyio
from connectrpc.client import ConnectClientSync
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from google.protobuf import message_factory

from groupconv.v1 import convolution_pb2
from groupconv_server.access.tokens import new_token
from groupconv_server.web.methods import SERVICES

anyio.open_file  # noqa: B018 - loaded here: pytest cannot always rewrite a module that a thread of the web port loads

SMALL = {"port": 0, "executor": "local", "workers": 1, "threads": 1, "engine": "reference", "web_port": 0}
PROTOCOLS = [ProtocolType.CONNECT, ProtocolType.GRPC_WEB]
METHODS = {method.name: method for service in SERVICES for method in service.methods}
CONVOLVE = "/groupconv.v1.ConvolutionService/Convolve"
TOKEN = new_token()


def convolution(x, w):
    """A request of one step."""
    request = convolution_pb2.ConvolveRequest(without_report=True)
    for tensor, array in ((request.input, x), (request.steps.add().kernel, w)):
        tensor.dtype, tensor.data = 3, array.astype("<f4").tobytes()
        tensor.shape.extend(array.shape)
    return request


def call(server, name, request, protocol=ProtocolType.CONNECT, json=False, **options):
    """Call a unary method through connectrpc's client."""
    method = METHODS[name]
    info = MethodInfo(
        name=name,
        service_name=method.containing_service.full_name,
        input=type(request),
        output=message_factory.GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )
    codec = google_protobuf_json_codec() if json else google_protobuf_binary_codec()
    with ConnectClientSync(server.web_url.rstrip("/"), codec=codec, protocol=protocol, send_compression=None) as client:
        return client.execute_unary(request=request, method=info, **options)


def http_call(server, path, body=None, method="POST", **headers):
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection(urlsplit(server.web_url).netloc, timeout=60)
    try:
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def opened(server, size):
    """A connection on which a call of Convolve with a body of `size` bytes has begun."""
    url = urlsplit(server.web_url)
    connection = socket.create_connection((url.hostname, url.port), timeout=60)
    headers = f"Host: localhost\r\nContent-Type: application/proto\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(f"POST {CONVOLVE} HTTP/1.1\r\n{headers}".encode())
    return connection


def answered(connection):
    """Status and body of the answer on a connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read())
