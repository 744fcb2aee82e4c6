"""Registering a device's memory with a server: once where it refuses, again where it may take it later, and its end."""

import functools
import gc
import threading

import numpy as np
import pytest
from on_device import SHAPE, SPEC, W, expected, image, on_device, regions

import groupconv
from emulation.libcuda import UUID
from groupconv.errors import (
    DeadlineExceededError,
)
from groupconv.memory import exports
from groupconv_server.config import Config
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.server import Server


def asks(client, monkeypatch):
    """How often the client asks for memory to be registered."""
    found = []
    call = client._call

    def counted(method, message, timeout):
        found.append(method)
        return call(method, message, timeout)

    monkeypatch.setattr(client, "_call", counted)
    device = client._unary(exports._REGISTER)
    return lambda: sum(method is device for method in found)


def test_a_server_without_that_device_is_asked_once(library, host, near, monkeypatch, caplog):
    class Elsewhere:
        def uuid(self, ordinal):
            return UUID[::-1]

    monkeypatch.setattr("groupconv_worker.cuda.ipc.driver", Elsewhere)
    caplog.set_level("INFO", "groupconv.memory.exports")
    count = asks(near, monkeypatch)
    for seed in range(3):
        x = on_device(library, image(seed))
        np.testing.assert_array_equal(near.convolve(x, W, spec=SPEC), expected(image(seed)))
    assert count() == 1
    assert not regions(host)
    assert "does not see that device" in caplog.text


def test_a_server_without_a_gpu_is_asked_once(library, host, near, monkeypatch):
    monkeypatch.setattr("groupconv_worker.cuda.engine.why_unavailable", lambda: "CuPy is not installed")
    count = asks(near, monkeypatch)
    for seed in range(3):
        out = on_device(library, np.zeros(SHAPE, np.float32))
        near.convolve(on_device(library, image(seed)), W, spec=SPEC, out=out)
        np.testing.assert_array_equal(out.array, expected(image(seed)))
    assert count() == 1


def test_an_allocation_that_the_server_cannot_open_is_tried_once(library, cupy, host, near, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "ipcOpenMemHandle", lambda *_: cupy.ipc.open_handle(b"", 0))
    count = asks(near, monkeypatch)
    x = on_device(library, image())
    for _ in range(3):
        np.testing.assert_array_equal(near.convolve(x, W, spec=SPEC), expected(image()))
    assert count() == 1


def test_a_full_server_is_asked_again_later(library, host, near, monkeypatch):
    monkeypatch.setattr(exports, "PAUSE", 1e6)
    host.client_device_memory.capacity = 0
    count = asks(near, monkeypatch)
    x = on_device(library, image())
    np.testing.assert_array_equal(near.convolve(x, W, spec=SPEC), expected(image()))
    near.convolve(x, W, spec=SPEC)
    assert count() == 1
    host.client_device_memory.capacity = 2**30
    near._shared._exports._not_before = 0.0
    near.convolve(x, W, spec=SPEC)
    assert count() == 2
    assert len(regions(host)) == 1


def test_freed_memory_is_let_go_and_so_is_what_is_too_much(library, host, near, cupy, monkeypatch):
    x = on_device(library, image())
    near.convolve(x, W, spec=SPEC)
    (first,) = regions(host)
    library.free(x.array.ctypes.data)
    del x
    y = on_device(library, image())
    near.convolve(y, W, spec=SPEC)
    assert first not in regions(host)
    assert len(regions(host)) == 1
    monkeypatch.setattr(exports, "MAX_ALLOCATIONS", 3)
    kept = [on_device(library, image()) for _ in range(5)]
    for x in kept:
        near.convolve(x, W, spec=SPEC)
        near.convolve(y, W, spec=SPEC)
    assert len(regions(host)) == 3
    assert len(near._shared._exports._regions) == 3
    del first
    gc.collect()
    assert len(cupy.ipc.open) == 3


def test_a_server_that_was_started_anew(library):
    x, out = on_device(library, image()), on_device(library, np.zeros(SHAPE, np.float32))
    config = functools.partial(Config, executor="local", threads=1, engine="cpu", shared_memory=True)
    with Server(config(port=0)) as server:
        client = groupconv.connect(server.address, shared_memory=True)
        client.convolve(x, W, spec=SPEC, out=out)
        port = server.port
    with client, Server(config(port=port)) as server:
        out.array[...] = 0
        client.convolve(x, W, spec=SPEC, out=out)
        assert len(regions(server)) == 2
    np.testing.assert_array_equal(out.array, expected(image()))


def test_a_call_that_timed_out_keeps_its_array_for_a_while(library, host, near, monkeypatch):
    x, out = on_device(library, image()), on_device(library, np.zeros(SHAPE, np.float32))
    near.convolve(x, W, spec=SPEC, out=out)
    go = threading.Event()
    run = LocalExecutor.run
    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "run", lambda self, tasks, **o: (go.wait(30), run(self, tasks))[1])
        with pytest.raises(DeadlineExceededError):
            near.convolve(x, W, spec=SPEC, out=out, timeout=0.2)
    go.set()
    held = near._shared._exports._held
    assert [owner for _, owner in held] == [out]
    held[0] = 0.0, out  # it is later
    near.convolve(x, W, spec=SPEC, out=out)
    assert not held
