"""The Open Inference Protocol v2 over HTTP (KServe's REST): health, metadata, inference in JSON or with binary tensors.

Each request becomes a call of GRPCInferenceService, whose rules and errors hold. Paths, fields and the binary extension
are those of https://github.com/kserve/open-inference-protocol.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from groupconv.errors import GroupconvError
from groupconv_server.inference.v2 import infer_pb2, model_pb2, service_pb2
from groupconv_server.telemetry.request import ID_KEY
from groupconv_server.web.gateway import Gateway
from groupconv_server.web.rest_tensors import HEADER_LENGTH, answer_of, request_of

_SERVICE = "/inference.GRPCInferenceService/"
STATUSES = {
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
"""HTTP statuses of errors; any other is 500."""
Handler = Callable[[Request], Awaitable[Response]]


class KServe:
    """The paths under /v2.

    Args:
        gateway: calls the service.
        limit: bytes of a message, at most.
    """

    def __init__(self, gateway: Gateway, limit: int) -> None:
        self._gateway, self._limit = gateway, limit

    def routes(self) -> list[BaseRoute]:
        """Its routes. A layer's name may have slashes."""
        routes: list[BaseRoute] = [
            Route("/v2", _answering(self.server), methods=["GET"]),
            Route("/v2/health/live", _answering(self.live), methods=["GET"]),
            Route("/v2/health/ready", _answering(self.ready), methods=["GET"]),
        ]
        for model in ("/v2/models/{name:path}/versions/{version}", "/v2/models/{name:path}"):
            routes += [
                Route(f"{model}/infer", _answering(self.infer), methods=["POST"]),
                Route(f"{model}/ready", _answering(self.model_ready), methods=["GET"]),
                Route(model, _answering(self.model), methods=["GET"]),
            ]
        return routes

    async def live(self, request: Request) -> Response:
        """200 while the process answers."""
        answer = service_pb2.ServerLiveResponse.FromString(await self._call(request, "ServerLive"))
        return _state("live", answer.live)

    async def ready(self, request: Request) -> Response:
        """200 while there is a worker, else 503."""
        answer = service_pb2.ServerReadyResponse.FromString(await self._call(request, "ServerReady"))
        return _state("ready", answer.ready)

    async def server(self, request: Request) -> Response:
        """Name, version and extensions."""
        answer = service_pb2.ServerMetadataResponse.FromString(await self._call(request, "ServerMetadata"))
        extensions = [name for name in answer.extensions if "shared_memory" not in name]
        return JSONResponse(
            {"name": answer.name, "version": answer.version, "extensions": [*extensions, "binary_tensor_data"]}
        )

    async def model_ready(self, request: Request) -> Response:
        """200 if the layer is loaded, else 503."""
        message = model_pb2.ModelReadyRequest(**_model(request)).SerializeToString()
        answer = model_pb2.ModelReadyResponse.FromString(await self._call(request, "ModelReady", message))
        return _state("ready", answer.ready)

    async def model(self, request: Request) -> Response:
        """The input and output of a layer."""
        message = model_pb2.ModelMetadataRequest(**_model(request)).SerializeToString()
        metadata = model_pb2.ModelMetadataResponse.FromString(await self._call(request, "ModelMetadata", message))

        def tensors(messages: Any) -> list[dict[str, Any]]:
            return [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in messages]

        return JSONResponse(
            {
                "name": metadata.name,
                "versions": list(metadata.versions),
                "platform": metadata.platform,
                "inputs": tensors(metadata.inputs),
                "outputs": tensors(metadata.outputs),
            }
        )

    async def infer(self, request: Request) -> Response:
        """Run a layer."""
        await self._gateway.refuse_without_token(f"{_SERVICE}ModelInfer", dict(request.headers), _peer(request))
        body = await self._body(request)
        length = request.headers.get(HEADER_LENGTH)
        message, wants = await self._gateway.beside(request_of, body, length)
        message.model_name, message.model_version = request.path_params["name"], request.path_params.get("version", "")
        raw = await self._call(request, "ModelInfer", message.SerializeToString())
        answer = infer_pb2.ModelInferResponse.FromString(raw)
        content, headers = await self._gateway.beside(answer_of, answer, wants)
        return Response(content, headers=headers)

    async def _call(self, request: Request, method: str, message: bytes = b"") -> bytes:
        headers, peer = dict(request.headers), _peer(request)
        answer, request_id = await self._gateway.call(_SERVICE + method, message, headers, peer)
        request.state.id = request_id
        return answer

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._limit:
                raise ConnectError(Code.RESOURCE_EXHAUSTED, f"the body is larger than {self._limit} bytes")
            parts.append(part)
        return b"".join(parts)


def _answering(method: Handler) -> Handler:
    """The method, with errors as the protocol has them: a status and `{"error": …}`."""

    async def run(request: Request) -> Response:
        try:
            response = await method(request)
        except GroupconvError as error:
            return JSONResponse({"error": str(error)}, STATUSES[Code[error.status]])
        except ConnectError as error:
            status = STATUSES.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
            return JSONResponse({"error": error.message}, status)
        response.headers[ID_KEY] = request.state.id
        return response

    return run


def _state(name: str, value: bool) -> Response:
    return JSONResponse({name: value}, HTTPStatus.OK if value else HTTPStatus.SERVICE_UNAVAILABLE)


def _peer(request: Request) -> str:
    client = request.client
    return "" if client is None else f"{client.host}:{client.port}"


def _model(request: Request) -> dict[str, str]:
    return {"name": request.path_params["name"], "version": request.path_params.get("version", "")}
