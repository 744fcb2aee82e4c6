"""The web port as browsers use it: gRPC-Web and Connect through a real client, and plain HTTP."""

import json
import socket
import sys
from urllib.parse import urlsplit

import numpy as np
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from google.rpc import error_details_pb2

import groupconv
from groupconv.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from groupconv.v1 import layer_pb2
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server
from groupconv_server.settings import Settings
from web_calls import CONVOLVE, PROTOCOLS, SMALL, answered, call, convolution, http_call, opened


@pytest.fixture(scope="module")
def served():
    limits = Limits(message_bytes=2**20, tensor_bytes=2**22, stream_idle_seconds=0.2)
    with Server(Config(**SMALL, limits=limits, queue_bytes=2**19)) as server:
        yield server


def violation(error):
    """The field of an error's BadRequest."""
    (detail,) = [d for d in error.details if d.type_name == "google.rpc.BadRequest"]
    return error_details_pb2.BadRequest.FromString(detail.message_bytes).field_violations[0].field


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("json", [False, True])
def test_a_convolution_is_the_same_as_over_grpc(served, protocol, json):
    rng = np.random.default_rng(0)
    x, w = rng.random((1, 2, 9, 7), np.float32), rng.random((3, 2, 3, 3), np.float32)
    output = call(served, "Convolve", convolution(x, w), protocol, json).output
    with groupconv.connect(served.address) as client:
        expected = client.conv2d(x, w)
    assert tuple(output.shape) == expected.shape
    assert output.data == expected.tobytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_error_names_its_field_in_its_details(served, protocol):
    with pytest.raises(ConnectError, match=r"steps\[0\]\.kernel") as caught:
        call(served, "Convolve", convolution(np.ones((1, 2, 5)), np.ones((1, 3, 2))), protocol)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert violation(caught.value) == "steps[0].kernel.shape[1]"
    with pytest.raises(ConnectError) as caught:
        call(served, "GetLayer", layer_pb2.GetLayerRequest(name="nobody"), protocol)
    assert caught.value.code is Code.NOT_FOUND


def test_bodies_are_limited_together_and_released(served):
    for _ in range(4):  # each is below the limit, all of them are not
        assert http_call(served, CONVOLVE, bytes(200_000), content_type="application/proto")[0] == 400
    status, _, body = http_call(served, CONVOLVE, bytes(900_000), content_type="application/proto")
    assert (status, json.loads(body)["code"]) == (429, "resource_exhausted")
    assert [d["type"] for d in json.loads(body)["details"]] == ["google.rpc.RetryInfo"]
    assert http_call(served, CONVOLVE, bytes(200_000), content_type="application/proto")[0] == 400


def test_a_body_that_stops_coming_ends_the_call(served):
    with opened(served, 9) as connection:
        assert answered(connection)[1]["code"] == "deadline_exceeded"


def test_only_unary_methods_of_the_api_are_there(served):
    proto = {"content_type": "application/proto"}
    for path in (
        "/groupconv.v1.LayerService/LoadLayer",
        "/groupconv.v1.MemoryService/RegisterMemory",
        "/groupconv.v1.ConvolutionService/Nothing",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ):
        assert http_call(served, path, b"", **proto)[0] in (404, 405), path
    assert http_call(served, CONVOLVE, b"", content_type="text/plain")[0] == 415
    assert http_call(served, CONVOLVE, b"x", content_type="application/proto", content_encoding="gzip")[0] != 200


def test_there_is_no_web_port_unless_it_is_asked_for():
    with Server(Config(**SMALL | {"web_port": None})) as server:
        assert server.web_url is None


def test_a_taken_port_is_an_error_and_a_stopped_server_frees_it():
    with Server(Config(**SMALL)) as server:
        port = urlsplit(server.web_url).port
        with pytest.raises(UnavailableError, match=str(port)):
            Server(Config(**SMALL | {"web_port": port}))
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_without_its_libraries_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "groupconv_server.web.listener", raising=False)
    with pytest.raises(FailedPreconditionError, match=r"groupconv\[web\]"):
        Server(Config(**SMALL))


@pytest.mark.parametrize("origins", ["lab.example", "https://lab.example/", "*", "https://a@b", "ftp://a"])
def test_what_is_no_origin_is_refused(origins):
    with pytest.raises(InvalidArgumentError, match=r"--web-origins.*https://host"):
        Settings(web_origins=origins).config()
