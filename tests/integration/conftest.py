"""Servers that the tests of several files look into: for streams, and for shared memory."""

import pytest
from typer.testing import CliRunner

import groupconv
from groupconv_server.cli.app import app
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server


@pytest.fixture(scope="module")
def exact():
    """A server whose answers are the reference's, bit for bit."""
    limits = Limits(stream_bytes=2**20, streams_bytes=3 * 2**20)
    with Server(Config(port=0, executor="local", workers=3, threads=1, engine="reference", limits=limits)) as server:
        yield server


@pytest.fixture(scope="module")
def bands(exact):
    """Its client."""
    with groupconv.connect(exact.address, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def narrow():
    """A server that gives a stream 6 MiB."""
    with Server(
        Config(port=0, executor="local", workers=2, threads=1, limits=Limits(network_stream_bytes=6 * 2**20))
    ) as server:
        yield server


@pytest.fixture(scope="module")
def sharing():
    """A server that lets clients share memory with it."""
    with Server(Config(port=0, executor="local", workers=2, threads=1, shared_memory=True)) as server:
        yield server


@pytest.fixture
def near(sharing):
    """A client that does."""
    with groupconv.connect(sharing.address, timeout=60, shared_memory=True) as client:
        yield client


@pytest.fixture
def conv(server):
    """Runs `groupconv conv` on that server, and checks its exit code."""

    def run(*arguments, code=0):
        done = CliRunner().invoke(app(), ["conv", *map(str, arguments), "--target", server.address])
        assert done.exit_code == code, (done.output, done.exception)
        return done

    return run
