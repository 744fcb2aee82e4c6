"""A connection that was cut in silence: no packet comes, and nobody says so."""

import contextlib
import selectors
import socket
import threading
import time

import numpy as np
import pytest

import groupconv
import groupconv.transport.channel
import groupconv_server.server
from groupconv.errors import UnavailableError
from groupconv_server.config import Config
from groupconv_server.server import Server


class Relay:
    """Passes bytes between a client and a server, until it keeps them to itself."""

    def __init__(self, target):
        self._target = target.rsplit(":", 1)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector, self._cut = selectors.DefaultSelector(), threading.Event()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def cut(self):
        """What is connected stays so, and hears nothing more; nobody else gets in."""
        self._cut.set()

    def close(self):
        """End what is connected."""
        self.cut()
        self._thread.join()
        for key in self._selector.get_map().values():
            key.fileobj.close()

    def _run(self):
        while not self._cut.is_set():
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._listener:
                    inner, outer = self._listener.accept()[0], socket.create_connection(self._target)
                    self._selector.register(inner, selectors.EVENT_READ, outer)
                    self._selector.register(outer, selectors.EVENT_READ, inner)
                elif data := key.fileobj.recv(2**16):
                    key.data.sendall(data)
        self._selector.unregister(self._listener)
        self._listener.close()


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_a_silent_cut_is_noticed_long_before_the_deadline(server, monkeypatch, kind):
    monkeypatch.setattr(groupconv.transport.channel, "KEEPALIVE", 1.0)
    monkeypatch.setattr(groupconv.streaming.attempts, "PATIENCE", 1.0)
    x, w = np.ones((1, 1, 64, 64), np.float32), np.ones((1, 1, 3, 3), np.float32)
    with (
        contextlib.closing(Relay(server.address)) as relay,
        groupconv.connect(relay.address, timeout=300) as client,
    ):
        ask = client.conv2d if kind == "unary" else client.stream_conv2d
        ask(x, w)
        relay.cut()
        start = time.monotonic()
        with pytest.raises(UnavailableError):
            ask(x, w)
        assert time.monotonic() - start < 60  # not 300


@pytest.mark.slow
def test_a_long_call_is_not_taken_for_one_that_is_cut(monkeypatch):
    """The server answers every ping of the client and does not close the connection. All periods are a fifth."""
    monkeypatch.setattr(groupconv.transport.channel, "KEEPALIVE", groupconv.transport.channel.KEEPALIVE / 5)
    monkeypatch.setattr(groupconv_server.server, "PING_MS", groupconv_server.server.PING_MS // 5)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(Config(port=0, executor="local", workers=1, threads=1, engine="reference")))
        client = stack.enter_context(groupconv.connect(server.address))
        asked = threading.Event()

        def slow():  # a band, and then nothing for longer than four pings take
            yield np.ones((1, 8, 8), np.float32)
            asked.wait(19)
            yield np.ones((1, 8, 8), np.float32)

        y = client.stream_conv2d(slow(), np.ones((1, 1, 1, 1)), shape=(1, 16, 8), dtype="float32")
        np.testing.assert_array_equal(y, np.ones((1, 16, 8)))
