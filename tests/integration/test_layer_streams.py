"""The stream that loads a layer, as a client in another language may send it."""

import itertools

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupconv.v1 import layer_pb2, layer_pb2_grpc, spec_pb2
from groupconv.wire.tensors import type_to_wire

RNG = np.random.default_rng(6)
F32 = np.dtype(np.float32)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def header(name="tests/raw", kernel=(2, 2, 3), **more):
    step = layer_pb2.LayerStep(kernel=type_to_wire(F32, kernel), **more)
    return layer_pb2.LoadLayerRequest(header=layer_pb2.LayerHeader(name=name, steps=[step]))


def chunk(n):
    return layer_pb2.LoadLayerRequest(chunk=bytes(n))


@pytest.mark.parametrize(
    ("stream", "field", "said"),
    [
        ([], "header", "empty stream"),
        ([chunk(48)], "header", "'chunk'"),
        ([header(), chunk(40)], "chunk", "expected 48 bytes of weights, got '40 bytes'"),
        ([header(), chunk(49)], "chunk", "48 bytes"),
        ([header(), chunk(48), chunk(1)], "chunk", "48 bytes"),
        ([header(), header(), chunk(48)], "chunk", "'header'"),
        ([layer_pb2.LoadLayerRequest(header=layer_pb2.LayerHeader(name="a"))], "steps", "1 to 64"),
        ([header(kernel=(2, -2, 3)), chunk(48)], "steps[0].kernel.shape[1]", "-2"),
        ([header(kernel=(2, 2)), chunk(16)], "steps[0].kernel.shape", "3 to 5"),
        ([header(bias=type_to_wire(F32, (3,))), chunk(60)], "steps[0].bias.shape", "[2]"),
        ([header(spec=spec_pb2.ConvSpec(groups=3)), chunk(48)], "steps[0].spec.groups", "divisor of 2"),
        ([header(spec=spec_pb2.ConvSpec(groups=-1)), chunk(48)], "steps[0].spec.groups", "-1"),
    ],
)
def test_streams_that_cannot_be_are_refused_and_leave_nothing(server, stream, field, said):
    with grpc.insecure_channel(server.address) as channel:
        load = layer_pb2_grpc.LayerServiceStub(channel).LoadLayer
        with pytest.raises(grpc.RpcError) as caught:
            load(iter(stream), timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(field)
        assert said in caught.value.details()
    assert server.layers.bytes == 0


def test_a_shape_that_overflows_64_bits_is_refused_before_anything_is_allocated(server):
    with grpc.insecure_channel(server.address) as channel:
        load = layer_pb2_grpc.LayerServiceStub(channel).LoadLayer
        with pytest.raises(grpc.RpcError) as caught:
            load(iter([header(kernel=(2**40, 2**40, 3))]), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 60), max_size=6))
def test_chunks_may_be_cut_anywhere(server, client, cuts):
    w, b = f32(2, 2, 3), f32(2)
    data = w.tobytes() + b.tobytes()
    at = sorted({0, len(data), *[c for c in cuts if c < len(data)]})
    parts = [layer_pb2.LoadLayerRequest(chunk=data[a:z]) for a, z in itertools.pairwise(at)]
    with grpc.insecure_channel(server.address) as channel:
        layer_pb2_grpc.LayerServiceStub(channel).LoadLayer(
            iter([header(bias=type_to_wire(F32, (2,))), *parts]), timeout=60
        )
    x = f32(1, 2, 5)
    with client.get_layer("tests/raw") as layer:
        np.testing.assert_allclose(layer(x), client.conv1d(x, w, b), rtol=1e-5, atol=1e-5)
