"""A machine with a device: libcuda and another process's memory are played, servers and clients are real."""

import copy

import pytest

import groupconv
from emulation import needs_compiler
from emulation.libcuda import as_libcuda
from emulation.stand_in import as_cupy
from groupconv_server.config import Config
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.server import Server


@pytest.fixture(scope="module")
def cupy():
    with as_cupy() as module:
        yield module


@pytest.fixture(scope="module")
def library(cupy):
    with as_libcuda(cupy.ipc) as library:
        yield library


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=needs_compiler)])
def sharing(library, request):
    with Server(Config(port=0, executor="local", threads=1, engine=request.param, shared_memory=True)) as server:
        server.background.stop()  # tests watch what the workers run, and that is no measurement
        yield server


@pytest.fixture(scope="module")
def host(library):
    """A server that computes on the CPU, of a machine with a device."""
    with Server(Config(port=0, executor="local", threads=1, engine="cpu", shared_memory=True)) as server:
        server.background.stop()
        yield server


@pytest.fixture
def near(request):
    server = request.getfixturevalue("host" if "host" in request.fixturenames else "sharing")
    with groupconv.connect(server.address, timeout=60, shared_memory=True) as client:
        yield client


@pytest.fixture
def seen(monkeypatch):
    """The tasks that were run."""
    found = []
    run = LocalExecutor.run

    def watched(self, tasks, **options):
        found.extend(map(copy.copy, tasks))  # a warm call gives its tasks new arrays
        return run(self, tasks, **options)

    monkeypatch.setattr(LocalExecutor, "run", watched)
    return found
