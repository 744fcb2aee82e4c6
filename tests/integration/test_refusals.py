"""Whatever a message says is answered by a status that a caller can act on: never by INTERNAL or UNKNOWN.

Every message of both protocols and of reflection, one to three of its fields at extremes: shapes of up to 100 axes,
extents to 2⁶³ − 1 and below 0, names of 10 KB, with control characters or no UTF-8, every value of an enum and others.
"""

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import groupconv
from fuzzing import corpus, live, mutations
from groupconv.wire.tensors import type_to_wire
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server

PATHS = [*corpus.unary(), *live.STREAMS, live.REFLECTION]


@pytest.fixture(scope="module")
def channel():
    limits = Limits(message_bytes=2**20, tensor_bytes=2**22, stream_bytes=2**20, stream_idle_seconds=2)
    config = Config(
        port=0, executor="local", workers=1, threads=1, limits=limits, layer_bytes=2**20, shared_memory=True
    )
    with (
        Server(config) as server,
        groupconv.connect(server.address, timeout=60) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        client.load_layer(corpus.NAME, corpus.W, corpus.B, corpus.SPECS[0])
        yield channel


def ended(channel, path, raws):
    status = live._status(channel, path, raws)
    assert status.partition(":")[0] in live.FINE, (path, status)
    return status


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False), which=st.integers(0, 99))
def test_extreme_fields_are_answered_or_refused(channel, path, rng, which):
    valid = live._streamed()[path] if path in (*live.STREAMS, live.REFLECTION) else [[m] for m in corpus.unary()[path]]
    messages = [type(m).FromString(m.SerializeToString()) for m in valid[which % len(valid)]]
    mutations.fields_changed(rng, messages[0])
    ended(channel, path, [mutations.invalid_text(m.SerializeToString()) for m in messages])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.sampled_from((*mutations.INTEGERS, 4, 6)), max_size=100),
    tensor=st.sampled_from(["input", "kernel", "bias", "plan", "stream", "layer", "expected", "model"]),
)
def test_any_shape_of_any_tensor(channel, shape, tensor):
    shape = [max(-(2**63), min(2**63 - 1, extent)) for extent in shape]
    if tensor == "plan":
        request = corpus.plans()[0]
        request.input.shape[:] = shape
        path, raws = corpus.CONVOLUTION + "PlanConvolution", [request]
    elif tensor in ("input", "kernel", "bias"):
        request = corpus.convolve()[0]
        found = request.input if tensor == "input" else getattr(request.steps[0], tensor)
        found.shape[:] = shape
        path, raws = corpus.CONVOLUTION + "Convolve", [request]
    elif tensor == "stream":
        path, raws = live.STREAMS[0], live._streamed()[live.STREAMS[0]][0]
        raws[0].header.input.shape[:] = shape
    elif tensor in ("layer", "expected"):
        path, raws = live.STREAMS[1], corpus.loads()[0]
        header = raws[0].header
        header.name = "any/shape"
        if tensor == "expected":
            header.inputs.append(type_to_wire(corpus.X.dtype, corpus.X.shape))
        (header.inputs[0] if tensor == "expected" else header.steps[0].kernel).shape[:] = shape
    else:
        request = corpus.infer()[0]
        request.inputs[0].shape[:] = shape
        path, raws = corpus.INFERENCE + "ModelInfer", [request]
    status = ended(channel, path, [m.SerializeToString() for m in raws])
    assert status in ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "NOT_FOUND")


def test_the_refusal_of_a_shape_names_its_field(channel):
    request = corpus.convolve()[0]
    for shape, field in (
        ([2] * 100, "input.shape"),
        ([1, 2**63 - 1, 6, 6], "input.data"),
        ([0, 2**62, 2**62], "input.shape"),
        ([-1, 4, 6, 6], "input.shape[0]"),
    ):
        request.input.shape[:] = shape
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(corpus.CONVOLUTION + "Convolve")(request.SerializeToString(), timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(f"{field}: expected")


@pytest.mark.parametrize("path", PATHS)
def test_a_message_that_is_none_is_refused(channel, path):
    for raw in (b"\xff\xff", b"\x0a\x05ab", b"\x22\x03\xed\xa0\x80"):
        status = live._status(channel, path, [raw])
        expected = ["INVALID_ARGUMENT"]
        if path != live.REFLECTION:
            expected += ["OK", "NOT_FOUND", "FAILED_PRECONDITION"]
        assert status in expected, raw


@pytest.mark.parametrize("path", corpus.HEALTH)
@pytest.mark.parametrize("raw", [b"\xff\xff", b"\x0a\x05ab", b"\x0a\x03\xed\xa0\x80"])
def test_health_refuses_a_message_that_is_none(channel, path, raw):
    assert live._status(channel, path, [raw]) == "INVALID_ARGUMENT"


def test_reflection_still_answers(channel):
    ask = channel.stream_stream(
        live.REFLECTION,
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = list(ask(iter(corpus.reflections()[0]), timeout=60))
    assert len(answers) == 5
    assert {s.name for s in answers[0].list_services_response.service} >= {"groupconv.v1.ConvolutionService"}
    assert answers[1].file_descriptor_response.file_descriptor_proto
