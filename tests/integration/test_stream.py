"""Streams: any banding equals the whole, whatever goes wrong has a status, and everything held is given back."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import groupconv
from groupconv import ConvSpec, Step
from groupconv.chunks import packed
from groupconv.compress import compressed
from groupconv.dtypes import types_of
from groupconv.errors import DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from groupconv.geometry import resolve
from groupconv.requests import geometries
from groupconv.stream import STREAM, Transfer, transfer
from groupconv.v1 import stream_pb2
from groupconv_server.bands import Bands
from groupconv_server.config import Config
from groupconv_server.coordinator import Coordinator, problems_of
from groupconv_server.limits import Limits
from groupconv_server.server import Server
from groupconv_server.streaming import Budget, Stream, choose
from groupconv_worker.engines import create_engine, reference
from groupconv_worker.engines.base import Problem
from strategies import FLOATS, Case, cases, specs

PAIRS = tuple((f, f) for f in FLOATS) + (("uint8", "int8"), ("int8", "int32"), ("uint8", "float32"))
RNG = np.random.default_rng(0)
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def exact():
    """A server whose answers are the reference's, bit for bit."""
    limits = Limits(stream_bytes=2**20, streams_bytes=3 * 2**20, stream_idle_seconds=0.5)
    with Server(Config(port=0, executor="local", workers=3, threads=1, engine="reference", limits=limits)) as server:
        yield server


@pytest.fixture(scope="module")
def bands(exact):
    with groupconv.connect(exact.address, timeout=60) as client:
        yield client


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@settings(max_examples=250)
@given(case=cases(dtypes=PAIRS), rows=st.integers(1, 12))
def test_any_banding_of_any_spec_is_the_whole_bit_for_bit(bands, case: Case, rows):
    want = reference.convolve(case.x, case.weight, case.bias, case.geometry).astype(case.types.output)
    got = bands.stream_convolve(case.x, [Step(case.weight, case.bias, case.spec)], band_rows=rows)
    np.testing.assert_array_equal(got, want)


def test_rows_that_are_cropped_whole_are_not_asked_for_later(bands):
    """The whole of the step between the two needs no more rows than its parts do."""
    x, w, v = np.array([[[2.0, 3.0, 5.0]]]), np.array([[[7.0]]]), np.array([[[1.0, 10.0]]])
    steps = [Step(w, None, ConvSpec(padding=((1, 0),), transposed=True)), Step(v, None, ConvSpec(transposed=True))]
    assert bands.stream_convolve(x, steps, band_rows=1).tolist() == [[[21.0, 245.0, 350.0]]]


@settings(max_examples=120)
@given(case=cases(spec_activation=False, dtypes=(("float64", "float64"),)), rows=st.integers(1, 9), data=st.data())
def test_chains_accumulate_their_halos(bands, case: Case, rows, data):
    rank, channels = case.geometry.rank, case.geometry.out_channels
    kernel = data.draw(st.integers(1, 3))
    spec = data.draw(specs(rank, channels, channels, transposed=data.draw(st.booleans()), output=None))
    second = RNG.standard_normal((channels, 1, *[kernel] * rank))
    try:
        g = geometries([case.spec, spec], case.x.shape, [case.weight.shape, second.shape])
    except InvalidArgumentError:
        assume(False)
    assume(np.prod(g[1].output_shape) < 20_000 and np.prod(g[1].padded) < 20_000)
    middle = reference.convolve(case.x, case.weight, case.bias, g[0])
    want = reference.convolve(middle, second, None, g[1])
    got = bands.stream_convolve(
        case.x, [Step(case.weight, case.bias, case.spec), Step(second, None, spec)], band_rows=rows
    )
    np.testing.assert_array_equal(got, want)


def test_a_row_between_the_inputs_of_a_transposed_step_begins_with_the_band_that_holds_it():
    g = resolve(ConvSpec(stride=(3, 1), transposed=True), (1, 1, 8, 1), (1, 1, 1, 1))
    made = Bands([Problem(g, types_of(np.dtype("float32"), np.dtype("float32")))], 1)
    assert [made.first(row) for row in (17, 18, 20, 21)] == [15, 18, 18, 21]


@settings(max_examples=120)
@given(case=cases(), rows=st.integers(1, 6), data=st.data())
def test_a_stream_may_begin_at_any_row(bands, case: Case, rows, data):
    want = reference.convolve(case.x, case.weight, case.bias, case.geometry).astype(case.types.output)
    made = transfer(case.x, [Step(case.weight, case.bias, case.spec)], out=want.copy(), band_rows=rows)
    made.done = data.draw(st.integers(0, want.shape[0] * want.shape[2]))
    first, per = made.done, want.shape[2]
    for row in range(first, want.shape[0] * per):
        made.out[row // per, :, row % per] = 0  # what is missing
    got = bands._stream(made, 60)
    np.testing.assert_array_equal(got, want)


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


@pytest.mark.parametrize(("sent", "status"), [([], INVALID), ([header()], grpc.StatusCode.DEADLINE_EXCEEDED)])
def test_a_stream_that_falls_silent_is_ended(exact, sent, status):
    never = threading.Event()

    def messages():
        yield from sent
        never.wait(60)

    with grpc.insecure_channel(exact.address) as channel:
        call = channel.stream_stream(STREAM)(messages(), timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        never.set()
    assert caught.value.code() == status
    assert exact.streams.budget.wait_until_free(30)


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
    for wrong, source in [("float32", x), ("half", x), ("float16", x.astype(np.int8))]:
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


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("axis", [0, 1])
def test_padding_that_needs_an_edge(bands, mode, axis):
    """Circular padding along the rows makes a band of each sample; everything else needs rows near it alone."""
    x, w = f32(3, 2, 40, 30), f32(2, 2, 5, 5)
    padding = tuple((3, 2) if a == axis else (0, 0) for a in range(2))
    step = Step(w, spec=ConvSpec(padding=padding, padding_mode=mode))
    seen = []
    got = bands.stream_convolve(x, [step], band_rows=6, progress=seen.append)
    g = groupconv.resolve(step.spec, x.shape, w.shape)
    np.testing.assert_array_equal(got, reference.convolve(x, w, None, g).astype(np.float32))
    assert len(seen) == 3 if (mode, axis) == ("circular", 0) else len(seen) > 12


@pytest.mark.parametrize(("kernel", "algorithm"), [(5, "grouped"), (31, "fft"), (101, "fft")])
def test_bands_of_large_kernels_are_transformed(kernel, algorithm):
    w = RNG.standard_normal((3, 1, kernel, kernel)).astype(np.float32)
    spec = ConvSpec(padding=kernel // 2, groups=3)
    problems = problems_of((1, 3, 9000, 8000), np.dtype(np.float32), [spec], [w], [None])
    band = choose(problems, 0, Limits(), 1).widest().problems[0]
    engine = create_engine("cpu", threads=1)
    assert engine.heuristic(band, resident=False).name == algorithm
    assert band.geometry.input[0] < 2 * band.geometry.output[0]  # a halo is not most of the work
    engine.close()


@pytest.mark.ray
def test_bands_are_cut_over_actors(ray_executor):
    coordinator = Coordinator(ray_executor)
    x, w = f32(2, 4, 30, 9), f32(4, 2, 3, 3)
    steps = [Step(w, None, ConvSpec(padding=1, groups=2))]
    problems = problems_of(x.shape, x.dtype, [steps[0].spec], [w], [None])
    budget = Budget(2**20)
    with Stream(coordinator, budget, problems, steps, choose(problems, 7, coordinator.limits, 2)) as stream:
        rows = np.ascontiguousarray(x.swapaxes(1, 2))
        sender = threading.Thread(target=stream.receive, args=([memoryview(rows).cast("B")],))
        sender.start()
        got = np.concatenate([output.buffer.view(np.float32).copy() for output in stream.results()])
        sender.join()
    assert budget.held == 0
    want = reference.convolve(x, w, None, problems[0].geometry).astype(np.float32)
    np.testing.assert_array_equal(got.reshape(2, 30, 4, 9).swapaxes(1, 2), want)


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


def test_a_server_that_is_told_to_stop_ends_its_streams_first():
    server, address = serve(0)
    x, w = f32(1, 1, 3000, 300), f32(1, 1, 5, 5)

    def stop_once(progress):
        if progress.rows == 100:
            server.terminate()

    try:
        with groupconv.connect(address) as client:
            made = transfer(x, [Step(w)], progress=stop_once, band_rows=100)
            got = client._stream(made, 60)
            with pytest.raises(UnavailableError):
                client.stream_conv2d(x, w, timeout=1)
        assert (got.shape, made.resumed) == ((1, 1, 2996, 296), 0)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_an_error_of_the_source_is_the_caller_s(bands, exact):
    def broken():
        yield f32(1, 4, 9)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        bands.stream_conv2d(broken(), f32(1, 1, 3, 3), shape=(1, 400, 9), dtype="float32")
    assert exact.streams.budget.wait_until_free(30)


CLIENT = """
import sys, numpy as np, groupconv
with groupconv.connect(sys.argv[1]) as client:
    shown = lambda p: print(p.rows, flush=True)
    x = np.broadcast_to(np.float32(1), (1, 1, 2_000_000, 500))
    client.stream_conv2d(x, np.ones((1, 1, 3, 3)), progress=shown, out=np.empty((1, 1, 1_999_998, 498), np.float32))
"""


def test_a_killed_client_leaves_nothing_behind(exact):
    budget = exact.streams.budget
    client = subprocess.Popen([sys.executable, "-c", CLIENT, exact.address], stdout=subprocess.PIPE)
    assert client.stdout.readline()
    assert budget.held > 0
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    assert budget.wait_until_free(60)


def test_memory_of_a_server_whose_clients_are_killed_returns_to_its_level():
    server, address = serve(0, "--engine", "cpu")

    def held():
        return int(Path(f"/proc/{server.pid}/status").read_text().split("RssAnon:")[1].split()[0]) / 1024

    levels = []
    try:
        for _ in range(6):
            client = subprocess.Popen([sys.executable, "-c", CLIENT, address], stdout=subprocess.PIPE)
            assert client.stdout.readline()
            client.kill()
            client.wait()
            client.stdout.close()
            with groupconv.connect(
                address
            ) as other:  # the same work to its end, so that buffers are those of one stream
                other.stream_conv2d(np.ones((1, 1, 4000, 500), np.float32), np.ones((1, 1, 3, 3)))
            levels.append(held())
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert levels[-1] < levels[0] + 128, levels  # MiB; the bands of five streams are 320


def serve(port, *flags):
    process = subprocess.Popen(
        [sys.executable, "-m", "groupconv_server", "serve", "--port", str(port), "--executor", "local"]
        + list(flags or ("--engine", "reference")),
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().split()[-1]


@pytest.mark.parametrize("kind", ["array", "iterator", "awaiting"])
def test_a_client_outlives_its_server(kind):
    iterated = kind == "iterator"
    first, address = serve(0)
    servers = [first]
    x, w = f32(1, 1, 3000, 300), f32(1, 1, 5, 5)

    def kill_once(progress):
        if progress.rows >= 1000 and len(servers) == 1:
            first.kill()
            first.wait()
            servers.append(serve(address.split(":")[1])[0])

    try:
        source = iter(np.split(x[0], 30, axis=1)) if iterated else x
        shaped = {"shape": x.shape, "dtype": x.dtype} if iterated else {}
        made = transfer(source, [Step(w, spec=ConvSpec(padding=2))], progress=kill_once, band_rows=100, **shaped)

        async def use():
            async with groupconv.aio.connect(address) as client:
                return await client._stream(made, 120)

        if kind == "awaiting":
            got = asyncio.run(use())
        else:
            with groupconv.connect(address) as client:
                got = client._stream(made, 120)
        assert made.resumed >= 1
    finally:
        for server in servers:
            server.kill()
            server.wait()
            server.stdout.close()
    g = groupconv.resolve(ConvSpec(padding=2), x.shape, w.shape)
    np.testing.assert_array_equal(got.reshape(x.shape), reference.convolve(x, w, None, g).astype(np.float32))
