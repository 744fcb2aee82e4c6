"""Streams that are refused, ended or given up: each has a status, and everything held is given back."""

import threading

import grpc
import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import DeadlineExceededError, ResourceExhaustedError
from groupconv.streaming.stream import STREAM, transfer
from groupconv.v1 import stream_pb2
from groupconv.wire.chunks import packed
from groupconv.wire.compress import compressed
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server

RNG = np.random.default_rng(0)
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def header(**fields):
    made = transfer(np.ones((1, 1, 8, 4), np.float32), [Step(np.ones((1, 1, 3, 3)), spec=ConvSpec(padding=1))])
    request = stream_pb2.ConvolveStreamRequest.FromString(made.header())
    for name, value in fields.items():
        setattr(request.header, name, value)
    return request.SerializeToString()


def data(n):
    return packed(memoryview(bytes(n)))


def small(data, size):
    chunk = stream_pb2.CompressedChunk(data=data, size=size)
    return stream_pb2.ConvolveStreamRequest(compressed=chunk).SerializeToString()


BOMB = compressed(memoryview(bytes(2**20)), 4).data


@pytest.mark.parametrize(
    ("messages", "status", "words"),
    [
        ([], INVALID, "header: expected a header"),
        ([data(16)], INVALID, "header: expected a header"),
        ([b""], INVALID, "header: expected a header"),
        ([b"\xff\xff"], INVALID, "message: expected a ConvolveStreamRequest"),
        ([header()], INVALID, "data: expected 128 bytes"),
        ([header(), data(100)], INVALID, "the end of the stream at byte 100"),
        ([header(), data(129)], INVALID, "data: expected the end of the stream at byte 128"),
        ([header(), data(128), data(1)], INVALID, "data: expected the end of the stream at byte 128"),
        ([header(), small(BOMB, 2**40)], grpc.StatusCode.RESOURCE_EXHAUSTED, "compressed.size: 1099511627776 bytes"),
        ([header(), small(BOMB, 128)], INVALID, "compressed.data: expected an LZ4 block of 128 bytes"),
        ([header(), small(BOMB, 2**20)], INVALID, "data: expected the end of the stream at byte 128"),
        ([header(), small(b"", 128)], INVALID, "compressed.data"),
        ([header(), small(b"x" * 99, 128)], INVALID, "compressed.data"),
        ([header(), small(BOMB, -4)], INVALID, "compressed.size"),
        ([header(), small(BOMB, 6)], INVALID, "compressed.size: expected whole elements of 4 bytes"),
        ([header(), header()], INVALID, "data: expected chunks after the header"),
        ([header(), data(64), b"\xff"], INVALID, "message: expected a ConvolveStreamRequest"),
        ([header(first_output_row=9)], INVALID, "header.first_output_row: expected 0 to 8"),
        ([header(first_output_row=-1)], INVALID, "header.first_output_row"),
        ([header(band_rows=-1)], INVALID, "header.band_rows"),
    ],
)
def test_a_stream_that_cannot_be_meant_is_refused_and_lets_go(exact, bands, messages, status, words):
    with grpc.insecure_channel(exact.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(STREAM)(iter(messages), timeout=30))
    assert caught.value.code() == status
    assert words in caught.value.details()
    assert exact.streams.budget.wait_until_free(30)
    assert bands.stream_convolve(f32(1, 1, 8, 4), [Step(f32(1, 1, 3, 3))]).shape == (1, 1, 6, 2)


def test_a_stream_that_falls_silent_is_ended():
    limits = Limits(stream_idle_seconds=0.5)
    config = Config(port=0, executor="local", workers=1, threads=1, engine="reference", limits=limits)

    def silent_after(*sent):
        never = threading.Event()

        def messages():
            yield from sent
            never.wait()

        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(STREAM)(messages(), timeout=60))
        never.set()
        return caught.value.details()

    with Server(config) as server, grpc.insecure_channel(server.address) as channel:
        assert silent_after() == "header: expected a header within 0.5 s, got 'nothing'"
        while (said := silent_after(header())).startswith("header"):
            pass  # the header was late
        assert said == "no chunk came for 0.5 s"
        assert server.streams.budget.wait_until_free(30)


def test_what_does_not_fit_is_refused_before_it_is_allocated(bands):
    wide = np.broadcast_to(np.float32(0), (1, 1, 4, 100_000))
    with pytest.raises(ResourceExhaustedError, match="a band of"):
        bands.stream_convolve(wide, [Step(np.ones((1, 1, 3, 3)))])
    tall = np.broadcast_to(np.float32(0), (1, 1, 9000, 100))
    circular = Step(np.ones((1, 1, 3, 3)), None, ConvSpec(padding=1, padding_mode="circular"))
    with pytest.raises(ResourceExhaustedError, match="whole samples"):
        bands.stream_convolve(tall, [circular])
    endless = np.broadcast_to(np.uint8(0), (1, 1, 2**30, 2**20))
    with pytest.raises(ResourceExhaustedError, match="for a stream"):
        bands.stream_convolve(endless, [Step(np.ones((1, 1, 3, 3)))])


def test_streams_share_a_budget(exact):
    budget = exact.streams.budget
    budget.reserve(budget.limit)
    try:
        with (
            groupconv.connect(exact.address) as client,
            pytest.raises(ResourceExhaustedError, match="try again later") as caught,
        ):
            client.stream_convolve(f32(1, 1, 8, 4), [Step(f32(1, 1, 3, 3))])
        assert caught.value.retry_after == 1
    finally:
        budget.release(budget.limit)


def test_cancel_gives_everything_back(exact):
    made = transfer(f32(1, 1, 400, 300), [Step(f32(1, 1, 3, 3))], band_rows=8)
    with grpc.insecure_channel(exact.address) as channel:
        call = channel.stream_stream(STREAM)(iter([made.header(), data(300_000)]), timeout=60)
        made.accepted(next(call))
        call.cancel()
        assert exact.streams.budget.wait_until_free(30)


def test_a_deadline_that_passes_gives_everything_back(exact):
    never = threading.Event()

    def slow():
        yield f32(1, 40, 300)
        never.wait(60)

    with groupconv.connect(exact.address) as client:
        with pytest.raises(DeadlineExceededError):
            client.stream_conv2d(slow(), f32(1, 1, 3, 3), shape=(1, 400, 300), dtype="float32", timeout=0.3)
        never.set()
        assert exact.streams.budget.wait_until_free(30)
        assert client.stream_conv2d(f32(1, 8, 4), f32(1, 1, 3, 3)).shape == (1, 6, 2)
