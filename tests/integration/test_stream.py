"""Streams as the client sees them: sources and sinks, what travels, how far it is."""

import asyncio
import os
import re
import sys
import threading

import grpc
import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import DataLossError, InvalidArgumentError
from groupconv.streaming.stream import STREAM, Transfer, transfer
from groupconv.wire.chunks import packed
from groupconv_worker import reference

RNG = np.random.default_rng(0)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_an_iterator_of_bands_is_a_source_and_anything_sliced_is_a_sink(bands):
    x, w = f32(2, 50, 7), f32(4, 2, 5, 3)
    want = bands.conv2d(x, w, padding=2)

    class Rows:
        """Takes slices, and is no array."""

        shape, dtype = want.shape, want.dtype

        def __init__(self):
            self.held = np.zeros_like(want)

        def __setitem__(self, key, value):
            self.held[key] = value

    for cuts in ([10, 20, 30], [1, 2, 49], []):
        out, seen = Rows(), []
        given_back = bands.stream_conv2d(
            iter(np.split(x, cuts, axis=1)), w, shape=x.shape, dtype=x.dtype, padding=2, out=out, progress=seen.append
        )
        assert given_back is out
        np.testing.assert_array_equal(out.held, want)
        assert (seen[-1].rows, seen[-1].received) == (50, want.nbytes)


def test_a_file_of_numpy_is_a_source_and_a_sink(bands, tmp_path):
    x, w = f32(2, 50, 7), f32(4, 2, 5, 3)
    want = bands.conv2d(x, w, padding=2)
    np.save(tmp_path / "x.npy", x)
    with groupconv.open_npy(tmp_path / "x.npy") as source, groupconv.create_npy(tmp_path / "y.npy", want.shape) as out:
        bands.stream_conv2d(source, w, padding=2, out=out, band_rows=10)
        np.testing.assert_array_equal(bands.conv2d(source, w, padding=2), want)
        os.truncate(tmp_path / "x.npy", 1000)
        with pytest.raises(DataLossError, match="the file became shorter while it was read"):
            bands.stream_conv2d(source, w, padding=2, band_rows=10)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want)


def test_large_arrays_go_by_stream_without_being_asked(client, server, monkeypatch):
    streamed = []
    monkeypatch.setattr(client, "_stream", lambda *a: streamed.append(a) or type(client)._stream(client, *a))
    x, w = f32(1, 3, 700, 800), f32(3, 1, 3, 3)  # 6.7 MB, more than a message of this server may hold with its answer
    y = client.conv2d(x, w, padding=1, groups=3)
    z = client.conv2d(x[:, :, :300], w, padding=1, groups=3)
    np.testing.assert_allclose(y[:, :, :299], z[:, :, :299], rtol=1e-5, atol=1e-5)
    assert len(streamed) == 1
    assert server.streams.budget.wait_until_free(30)


def test_the_awaiting_client_streams_alike(bands, exact):
    x, w = f32(1, 2, 900, 600), f32(4, 1, 3, 3)  # 4.3 MB
    steps = [Step(w, spec=ConvSpec(padding=1, groups=2))]

    def broken():
        yield f32(1, 4, 9)
        raise OSError("the disk is gone")

    async def use():
        async with groupconv.aio.connect(exact.address, timeout=60) as client:
            y = await client.conv2d(x, w, padding=1, groups=2)
            out = np.empty_like(y)
            z = await client.stream_convolve(x, steps, out=out, band_rows=10)
            assert z is out
            np.testing.assert_array_equal(await client.stream_conv2d(x, w, padding=1, groups=2), y)
            with pytest.raises(OSError, match="the disk is gone"):
                await client.stream_convolve(broken(), [Step(f32(1, 1, 3, 3))], shape=(1, 400, 9), dtype="float32")
            return y, z

    y, z = asyncio.run(use())
    np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(y, bands.stream_convolve(x, steps))
    assert exact.streams.budget.wait_until_free(30)


def test_the_server_begins_before_it_has_everything(exact):
    """The first band comes back while most of the input has not been sent, and cannot be."""
    x, w = f32(1, 1, 64, 64), f32(1, 1, 5, 5)
    made = transfer(x, [Step(w, spec=ConvSpec(padding=2))], band_rows=4)
    arrived = threading.Event()

    def messages():
        yield made.header()
        yield packed(memoryview(x[0, 0, :6].tobytes()))  # rows 0 to 5 make outputs 0 to 3
        assert arrived.wait(30)
        yield packed(memoryview(x[0, 0, 6:].tobytes()))

    with grpc.insecure_channel(exact.address) as channel:
        call = channel.stream_stream(STREAM)(messages(), timeout=60)
        made.accepted(next(call))
        while made.done < 4:
            made.take(next(call))
        arrived.set()
        for message in call:
            made.take(message)
    made.filled()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_floats_may_travel_in_half_the_bytes(bands, dtype):
    """Within what docs/streaming.md says: input, kernel and output are each rounded once, sums are in float32."""
    x, w = f32(1, 4, 60, 33), f32(4, 2, 5, 5)
    spec = ConvSpec(padding=2, groups=2)
    out = np.empty_like(x)
    got = bands.stream_convolve(x, [Step(w, spec=spec)], wire_dtype=dtype, out=out)
    assert got is out
    u = 2.0**-11 if dtype == "float16" else 2.0**-8
    g = groupconv.resolve(spec, x.shape, w.shape)
    want, size = reference.convolve(x, w, None, g), reference.convolve(np.abs(x), np.abs(w), None, g)
    assert np.all(np.abs(got - want) <= 3.01 * u * size)
    assert np.any(np.abs(got - want) > 0.01 * u * size)  # it did travel so
    for wrong, source in [("float32", x), ("halves", x), ("float16", x.astype(np.int8))]:
        with pytest.raises(InvalidArgumentError, match="wire_dtype"):
            bands.stream_convolve(source, [Step(w, spec=spec)], wire_dtype=wrong)


@pytest.mark.parametrize("library_there", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_chunks_travel_compressed_where_both_sides_can(bands, exact, monkeypatch, dtype, library_there):
    """The bytes on the wire are fewer, the answer is the same; a server without the library declines."""
    if not library_there:
        monkeypatch.setattr("groupconv_server.servicers.stream.library", lambda: None)
    x = np.broadcast_to(np.arange(60, dtype=dtype)[:, None], (1, 3, 60, 700))
    step = Step(np.ones((3, 3, 3, 3), np.int8 if dtype == "uint8" else dtype), spec=ConvSpec(padding=1))
    sent, got = [], []
    take, message = Transfer.take, Transfer._message
    monkeypatch.setattr(Transfer, "take", lambda self, m: got.append(len(m)) or take(self, m))
    monkeypatch.setattr(Transfer, "_message", lambda self, c: sent.append(len(message(self, c))) or message(self, c))
    want = bands.stream_convolve(x, [step])
    plain = sum(sent), sum(got)
    sent.clear(), got.clear()
    np.testing.assert_array_equal(bands.stream_convolve(x, [step], compression="lz4"), want)
    assert (sum(sent) < plain[0] / 4 and sum(got) < plain[1] / 4) == library_there

    async def use():
        async with groupconv.aio.connect(exact.address) as client:
            return await client.stream_conv2d(x, step.kernel, padding=1, compression="lz4")

    np.testing.assert_array_equal(asyncio.run(use()), want)
    noise = RNG.integers(0, 256, (1, 3, 60, 700), dtype=np.uint8)  # does not shrink, so it travels as it is
    noisy = bands.stream_convolve(noise, [Step(np.ones((3, 3, 3, 3), np.int8))], compression="lz4")
    np.testing.assert_array_equal(noisy, bands.stream_convolve(noise, [Step(np.ones((3, 3, 3, 3), np.int8))]))
    with pytest.raises(InvalidArgumentError, match="compression: expected None, or lz4"):
        bands.stream_convolve(x, [step], compression="gzip")


def test_a_bar_shows_how_far_it_is(bands, exact, capsys, monkeypatch):
    x, w = f32(1, 1, 300, 300), f32(1, 1, 3, 3)
    bands.stream_conv2d(x, w, progress=True)
    assert re.search(r"100%.*347k/347k.*B/s", capsys.readouterr().err)

    async def use():
        async with groupconv.aio.connect(exact.address) as client:
            await client.stream_conv2d(x, w, progress=True)

    asyncio.run(use())
    assert "100%" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(InvalidArgumentError, match=r"pip install 'groupconv\[progress\]'"):
        bands.stream_conv2d(x, w, progress=True)


def test_an_error_of_the_source_is_the_caller_s(bands, exact):
    def broken():
        yield f32(1, 4, 9)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        bands.stream_conv2d(broken(), f32(1, 1, 3, 3), shape=(1, 400, 9), dtype="float32")
    assert exact.streams.budget.wait_until_free(30)
