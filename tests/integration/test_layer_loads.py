"""A load may ask for minutes of preparing: its deadline, its caller's leaving and the end of the server stop it."""

import threading

import grpc
import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec
from groupconv.v1 import layer_pb2, layer_pb2_grpc
from groupconv.wire.tensors import type_to_wire
from groupconv_server.config import Config
from groupconv_server.server import Server
from waiting import until

F32 = np.dtype(np.float32)
KERNEL = (64, 64, 7, 7)
INPUTS = [(1, 64, 1000 + i, 1000) for i in range(64)]
"""Some seconds each on two cores: whoever waited for all of them would wait for minutes."""
SMALL = np.ones((8, 8, 3, 3), np.float32)


def header(name, kernel, inputs=()):
    step = layer_pb2.LayerStep(kernel=type_to_wire(F32, kernel))
    types = [type_to_wire(F32, shape) for shape in inputs]
    return layer_pb2.LoadLayerRequest(header=layer_pb2.LayerHeader(name=name, steps=[step], inputs=types))


def slow():
    yield header("slow", KERNEL, INPUTS)
    yield layer_pb2.LoadLayerRequest(chunk=np.ones(KERNEL, F32).tobytes())


@pytest.fixture
def server():
    with Server(Config(port=0, executor="local", workers=1, layer_bytes=2**26, evict_layers=True, grace=1)) as server:
        yield server


@pytest.fixture
def client(server):
    with groupconv.connect(server.address, timeout=60) as client:
        yield client


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield layer_pb2_grpc.LayerServiceStub(channel)


def test_after_the_deadline_of_a_slow_load_the_server_is_free(client, stub):
    layer = client.load_layer("other", SMALL, None, ConvSpec(padding=1))
    with pytest.raises(grpc.RpcError) as failed:
        stub.LoadLayer(slow(), timeout=1)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    client.load_layer("another", SMALL)
    assert layer(np.ones((1, 8, 32, 32), np.float32)).shape == (1, 8, 32, 32)
    assert [info.name for info in client.list_layers()] == ["another", "other"]


def test_a_caller_that_cancels_its_load_frees_the_server(server, client, stub):
    call = stub.LoadLayer.future(slow())
    until(lambda: server.coordinator.running)
    call.cancel()
    until(lambda: not server.coordinator.running)
    assert client.conv2d(np.ones((1, 8, 9, 9), np.float32), SMALL).shape == (1, 8, 7, 7)
    assert client.list_layers() == []


def test_a_server_that_stops_does_not_wait_for_a_slow_load(server, stub):
    call = stub.LoadLayer.future(slow())
    until(lambda: server.coordinator.running)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    stopping.join(60)
    assert not stopping.is_alive()
    assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_a_header_without_weights_costs_the_others_nothing(client, stub):
    for i in range(3):
        client.load_layer(f"victim{i}", SMALL)
    end = threading.Event()

    def alone():
        yield header("evil", (1024, 16384, 1))
        end.wait(60)

    call = stub.LoadLayer.future(alone())
    client.load_layer("mine", SMALL)
    assert [info.name for info in client.list_layers()] == ["mine", "victim0", "victim1", "victim2"]
    end.set()
    assert call.exception(60).code() is grpc.StatusCode.INVALID_ARGUMENT
