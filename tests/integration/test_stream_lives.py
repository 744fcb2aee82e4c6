"""Streams whose server or client ends before they do."""

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import DeadlineExceededError, UnavailableError
from groupconv.streaming.stream import transfer
from groupconv_worker import reference
from waiting import until

RNG = np.random.default_rng(0)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def serve(port, *flags):
    process = subprocess.Popen(
        [sys.executable, "-m", "groupconv_server", "serve", "--port", str(port), "--executor", "local"]
        + list(flags or ("--engine", "reference")),
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().split()[-1]


class Rows:
    """An array (N, C, H, W) whose last third of rows is there once something has happened.

    So it happens while the stream is under way, however far its messages have come.
    """

    def __init__(self, held, happened):
        self.held, self.happened = held, happened
        self.shape, self.dtype = held.shape, held.dtype

    def __getitem__(self, key):
        assert key[2].stop <= self.shape[2] * 2 // 3 or self.happened.wait(60)
        return self.held[key]


def test_a_server_that_is_told_to_stop_ends_its_streams_first():
    server, address = serve(0)
    x, w, told = f32(1, 1, 3000, 300), f32(1, 1, 5, 5), threading.Event()

    def stop_once(progress):
        if progress.rows == 100:
            server.terminate()
            told.set()

    try:
        with groupconv.connect(address) as client:
            made = transfer(Rows(x, told), [Step(w)], progress=stop_once, band_rows=100)
            got = client._stream(made, 60)
            with pytest.raises((UnavailableError, DeadlineExceededError)):
                client.stream_conv2d(x, w, timeout=1)
        assert (got.shape, made.resumed) == ((1, 1, 2996, 296), 0)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


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

    def use():
        """One client is killed in its stream; another does the same work to its end: buffers are those of a stream."""
        client = subprocess.Popen([sys.executable, "-c", CLIENT, address], stdout=subprocess.PIPE)
        assert client.stdout.readline()
        client.kill()
        client.wait()
        client.stdout.close()
        with groupconv.connect(address) as other:
            other.stream_conv2d(np.ones((1, 1, 4000, 500), np.float32), np.ones((1, 1, 3, 3)))

    try:
        use()
        level = held()
        for _ in range(5):
            use()
        # what malloc keeps returns a second after the last stream; the bands of five streams are 320 MiB
        until(lambda: held() < level + 128, 30)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


@pytest.mark.parametrize("kind", ["array", "iterator", "awaiting"])
def test_a_client_outlives_its_server(kind, caplog):
    iterated = kind == "iterator"
    first, address = serve(0)
    servers = [first]
    x, w, killed = f32(1, 1, 3000, 300), f32(1, 1, 5, 5), threading.Event()
    rows = Rows(x, killed)

    def kill_once(progress):
        if progress.rows >= 1000 and len(servers) == 1:
            first.kill()
            first.wait()
            killed.set()
            servers.append(serve(address.split(":")[1])[0])

    try:
        source = (rows[0, :, at : at + 100] for at in range(0, 3000, 100)) if iterated else rows
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
        assert "server away, retrying for " in caplog.text
    finally:
        for server in servers:
            server.kill()
            server.wait()
            server.stdout.close()
    g = groupconv.resolve(ConvSpec(padding=2), x.shape, w.shape)
    np.testing.assert_array_equal(got.reshape(x.shape), reference.convolve(x, w, None, g).astype(np.float32))


QUIET = """
import signal
from groupconv_server.config import Config
from groupconv_server.memory.malloc import keep_pages
from groupconv_server.server import Server

keep_pages()
with Server(Config(port=0, executor="local", engine="cpu", workers=1)) as server:
    server.background.wait()  # its own work takes memory, too
    print(server.address, flush=True)
    signal.pause()
"""


def test_memory_returns_after_a_stream():
    """What the bands took goes back to the kernel once no stream has come for a second."""
    server = subprocess.Popen([sys.executable, "-c", QUIET], stdout=subprocess.PIPE, text=True)
    address = server.stdout.readline().strip()

    def held():
        return int(Path(f"/proc/{server.pid}/status").read_text().split("RssAnon:")[1].split()[0]) / 1024

    x, w = np.ones((1, 4, 3000, 1000), np.float32), np.ones((4, 1, 9, 9), np.float32)
    peak = [0.0]

    def look(_):
        peak[0] = max(peak[0], held())

    try:
        with groupconv.connect(address) as client:
            client.stream_conv2d(x[:, :, :400], w, groups=4)  # compiled, started
            client.stream_conv2d(x, w, groups=4, band_rows=400, progress=look)
            until(lambda: held() < peak[0] - 20, 30)  # four bands of 12 MiB and what the engine used
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
