"""Every way a message can be wrong: a clear status that names the field, and the next request is served."""

import random

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from groupconv import ConvSpec, Step
from groupconv.arguments import prepare
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import convolution_pb2, convolution_pb2_grpc, spec_pb2, tensor_pb2
from groupconv.wire.requests import convolve_request

METHOD = "/groupconv.v1.ConvolutionService/Convolve"
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def channel(server):
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        yield channel


@pytest.fixture
def served(client):
    """After the test, whatever it sent, the next request is served."""
    yield
    np.testing.assert_array_equal(client.conv1d([[[1.0, 2.0, 3.0]]], [[[1.0, 1.0]]]), [[[3.0, 5.0]]])


def good() -> convolution_pb2.ConvolveRequest:
    x, steps, _ = prepare(np.ones((1, 4, 6, 6), np.float32), [Step(np.ones((2, 2, 3, 3)), [1, 2], ConvSpec(groups=2))])
    return convolution_pb2.ConvolveRequest.FromString(convolve_request(x, steps))


def edited(**changes) -> convolution_pb2.ConvolveRequest:
    """The good request with fields replaced, by path: step__spec__stride=[0]."""
    request = good()
    for path, value in changes.items():
        *parents, name = path.split("__")
        message = request
        for parent in parents:
            message = message.steps[0] if parent == "step" else getattr(message, parent)
        if isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return request


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("steps[0].spec.stride[0]", {"step__spec__stride": [0]}),
        ("steps[0].spec.stride[1]", {"step__spec__stride": [1, -3]}),
        ("steps[0].spec.stride[0]", {"step__spec__stride": [2**62]}),
        ("steps[0].spec.dilation[0]", {"step__spec__dilation": [0]}),
        ("steps[0].spec.dilation[0]", {"step__spec__dilation": [-(2**63)]}),
        ("steps[0].spec.groups", {"step__spec__groups": 0}),
        ("steps[0].spec.groups", {"step__spec__groups": -1}),
        ("steps[0].spec.groups", {"step__spec__groups": 3}),
        ("steps[0].kernel.shape[1]", {"step__spec__groups": 4}),
        ("steps[0].spec.padding[0].low", {"step__spec__padding_low": [-1], "step__spec__padding_high": [0]}),
        ("steps[0].spec.padding_high", {"step__spec__padding_low": [1], "step__spec__padding_high": [0, 0]}),
        ("steps[0].spec.padding_mode", {"step__spec__padding_mode": 9}),
        ("steps[0].spec.padding_rule", {"step__spec__padding_rule": 9}),
        ("steps[0].spec.activation.kind", {"step__spec__activation__kind": 99}),
        ("steps[0].spec.padding[0]", {"step__spec__padding_low": [6], "step__spec__padding_mode": 2}),
        ("steps[0].kernel.shape[2]", {"step__spec__dilation": [3]}),
        ("steps[0].spec.output_padding", {"step__spec__output_padding": [1]}),
        ("input.dtype", {"input__dtype": 0}),
        ("input.dtype", {"input__dtype": 77}),
        ("steps[0].kernel.dtype", {"step__kernel__dtype": 77}),
        ("steps[0].bias.dtype", {"step__bias__dtype": 6, "step__bias__data": bytes(2)}),
        ("input.data", {"input__data": bytes(575)}),
        ("input.data", {"input__data": b""}),
        ("input.data", {"input__shape": [1, 4, 2**40, 2**40]}),
        ("input.shape[0]", {"input__shape": [-1, 4, 6, 6]}),
        ("input.shape[2]", {"input__shape": [1, 4, 0, 6], "input__data": b""}),
        ("input.data", {"input__shape": [2**32, 2**32]}),
        ("input.shape", {"input__shape": [4, 36]}),
        ("steps[0].bias.shape", {"step__bias__shape": [1, 2]}),
        ("steps[0].bias.shape", {"step__bias__shape": [1], "step__bias__data": bytes(4)}),
        ("steps", {"steps": []}),
    ],
)
def test_invalid_argument_names_the_field(channel, served, field, changes):
    request = edited(**changes)
    with pytest.raises(grpc.RpcError) as caught:
        convolution_pb2_grpc.ConvolutionServiceStub(channel).Convolve(request, timeout=30)
    error = caught.value
    assert error.code() == INVALID, error.details()
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(error).details[0].Unpack(bad)
    assert [v.field for v in bad.field_violations] == [field]
    assert error.details().startswith(f"{field}: expected ")
    assert ", got " in error.details()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (spec_pb2.ConvSpec(transposed=True, stride=[10**6]), [1, 1, 8, 8]),
        (spec_pb2.ConvSpec(padding_low=[2**30]), [1, 1, 8, 8]),
        (spec_pb2.ConvSpec(padding_low=[2**31 - 1], stride=[2**31 - 1]), [1, 1, 8, 8]),
    ],
)
def test_a_small_request_for_a_huge_output_is_refused_before_allocating(channel, served, spec, shape):
    x = tensor_pb2.Tensor(dtype=3, shape=shape, data=bytes(4 * int(np.prod(shape))))
    kernel = tensor_pb2.Tensor(dtype=3, shape=[1, 1, 2, 2], data=bytes(16))
    request = convolution_pb2.ConvolveRequest(input=x, steps=[spec_pb2.Step(kernel=kernel, spec=spec)])
    with pytest.raises(grpc.RpcError) as caught:
        convolution_pb2_grpc.ConvolutionServiceStub(channel).Convolve(request, timeout=30)
    assert caught.value.code() == EXHAUSTED
    assert "steps[0]" in caught.value.details()
    assert "limit" in caught.value.details()


def test_a_message_over_the_limit_is_refused(channel, served, server):
    request = edited(input__data=bytes(server.config.limits.message_bytes + 1))
    with pytest.raises(grpc.RpcError) as caught:
        convolution_pb2_grpc.ConvolutionServiceStub(channel).Convolve(request, timeout=30)
    assert caught.value.code() == EXHAUSTED


def test_a_decompression_bomb_is_refused(channel, served, server):
    request = edited(input__data=bytes(12 * server.config.limits.message_bytes))  # zeros: gzip makes it small
    with pytest.raises(grpc.RpcError) as caught:
        convolution_pb2_grpc.ConvolutionServiceStub(channel).Convolve(
            request, timeout=60, compression=grpc.Compression.Gzip
        )
    assert caught.value.code() == EXHAUSTED


def test_an_answer_over_the_limit_is_refused(channel, served, server):
    extent = 1500  # 9 MB out of a server that answers 8 MiB at most
    x = tensor_pb2.Tensor(dtype=6, shape=[1, 1, extent, extent], data=bytes(extent**2))
    kernel = tensor_pb2.Tensor(dtype=5, shape=[1, 1, 1, 1], data=bytes(1))
    request = convolution_pb2.ConvolveRequest(input=x, steps=[spec_pb2.Step(kernel=kernel)])
    with pytest.raises(grpc.RpcError) as caught:
        convolution_pb2_grpc.ConvolutionServiceStub(channel).Convolve(request, timeout=30)
    assert caught.value.code() == EXHAUSTED
    assert caught.value.details().startswith("output: ")


def status_of(channel, message: bytes) -> grpc.StatusCode | None:
    """The status that raw bytes get; None for an answer."""
    try:
        channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)(message, timeout=30)
    except grpc.RpcError as error:
        return error.code()
    return None


def test_random_bytes_get_a_status(channel, served):
    rng = random.Random(0)
    for _ in range(300):
        noise = rng.randbytes(rng.randrange(200))
        assert status_of(channel, noise) in {None, INVALID, EXHAUSTED}


def test_flipped_bytes_get_a_status_or_an_answer(channel, served):
    rng = random.Random(1)
    message = good().SerializeToString()
    for _ in range(1500):
        broken = bytearray(message)
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        assert status_of(channel, bytes(broken)) in {None, INVALID, EXHAUSTED}


def test_the_client_sees_the_field_of_the_server_s_refusal(client, monkeypatch):
    """Past the client's own check, as an old client would be."""
    monkeypatch.setattr("groupconv.calls.prepare", lambda x, steps: (x, list(steps), False))
    x, w = np.ones((1, 4, 6, 6), np.float32), np.ones((2, 2, 3, 3), np.float32)
    with pytest.raises(InvalidArgumentError, match="expected a divisor of the 4 input channels") as caught:
        client.run(x, [Step(w, None, ConvSpec(groups=3))])
    assert caught.value.field == "steps[0].spec.groups"
