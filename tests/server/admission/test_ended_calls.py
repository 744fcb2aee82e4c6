"""Calls that ended early are gone at once, with what they had read: not when Python collects cycles."""

import gc
import threading

import grpc
import grpc._server
import pytest
from grpc_health.v1 import health_pb2

from groupconv.wire.chunks import packed
from groupconv_server.config import Config
from groupconv_server.server import Server
from waiting import until

METHODS = {
    "a message": "/groupconv.v1.ConvolutionService/Convolve",
    "an upload": "/groupconv.v1.LayerService/LoadLayer",
    "a stream": "/groupconv.v1.StreamService/ConvolveStream",
    "a stream of requests": "/inference.GRPCInferenceService/ModelStreamInfer",
    "health": "/grpc.health.v1.Health/Check",
}


@pytest.fixture(scope="module")
def address():
    with Server(Config(port=0, executor="local", workers=1, threads=1)) as server:
        yield server.address


def calls():
    """The calls that this process serves, or did."""
    return sum(type(found) is grpc._server._RPCState for found in gc.get_objects())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_call_that_its_client_cancels(address, method, without_collector):
    inside, before = threading.Event(), calls()

    def silence():
        inside.set()
        over.wait(60)
        yield from ()

    over = threading.Event()
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(method)(silence())
        assert inside.wait(60)
        until(lambda: calls() > before)
        call.cancel()
        over.set()
        del call
    until(lambda: calls() <= before, 10)


def test_a_stream_whose_header_is_refused(address, without_collector):
    before = calls()
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(METHODS["a stream"])(iter([packed(memoryview(b"data"))]))
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    until(lambda: calls() <= before, 10)


def test_a_check_of_health(address, without_collector):
    before = calls()
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(METHODS["health"])
        assert check(health_pb2.HealthCheckRequest().SerializeToString())
    until(lambda: calls() <= before, 10)
