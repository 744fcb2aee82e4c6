"""A client of two servers: calls take turns, go on with one server, and change neither."""

import asyncio

import numpy as np
import pytest

import groupconv
from groupconv.errors import InvalidArgumentError
from groupconv_server.config import Config
from groupconv_server.server import Server
from waiting import until

X, W = np.ones((1, 2, 4, 4), np.float32), np.ones((2, 1, 3, 3), np.float32)


def server():
    return Server(Config(port=0, executor="local", workers=1, threads=1, engine="reference"))


def requests(one):
    return one.coordinator.requests


def test_calls_go_in_turn_and_to_the_server_that_is_left():
    with server() as first, server() as second:
        servers, target = (first, second), f"ipv4:{first.address},{second.address}"
        with groupconv.connect(target, timeout=60, balance=True) as client:
            want = client.conv2d(X, W, groups=2)

            def both():
                np.testing.assert_array_equal(client.conv2d(X, W, groups=2), want)
                return all(requests(one) for one in servers)

            until(both)  # once it is connected to both
            before = [requests(one) for one in servers]
            for _ in range(10):
                client.conv2d(X, W, groups=2)
            assert [requests(one) - n for one, n in zip(servers, before, strict=True)] == [5, 5]
            first.stop()
            for _ in range(10):
                np.testing.assert_array_equal(client.conv2d(X, W, groups=2), want)


def test_what_one_server_keeps_is_refused():
    with server() as one:
        match = "balance: expected a client of one server"
        with groupconv.connect(one.address, timeout=60, balance=True) as client:
            with pytest.raises(InvalidArgumentError, match=match):
                client.load_layer("a", W, None, groupconv.ConvSpec(groups=2))
            with pytest.raises(InvalidArgumentError, match=match):
                client.unload_layer("a")
            assert client.list_layers() == []
        with pytest.raises(InvalidArgumentError, match="shared_memory: expected False with balance"):
            groupconv.connect(one.address, balance=True, shared_memory="auto")

        async def load():
            async with groupconv.aio.connect(one.address, balance=True) as client:
                await client.load_layer("a", W, None, groupconv.ConvSpec(groups=2))

        with pytest.raises(InvalidArgumentError, match=match):
            asyncio.run(load())
