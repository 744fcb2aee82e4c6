"""The SDK's tensors in shared memory, end to end: what is copied, what is kept, and what goes wrong."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec, Step
from groupconv.convolution.dtypes import BFLOAT16
from groupconv.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
)
from groupconv.memory.arena import FIRST, FOLDER, Arena
from groupconv.v1 import convolution_pb2
from groupconv.wire.tensors import tensor_in_region
from groupconv_server.config import Config
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.parts import Parts
from groupconv_server.server import Server

SPEC = ConvSpec(padding=1, groups=8)
F32 = np.dtype(np.float32)


@pytest.fixture
def layer(near):
    w = np.random.default_rng(0).integers(-9, 10, (8, 1, 3, 3)).astype(np.float32)
    with near.load_layer("tests/shared", w, None, SPEC) as layer:
        yield layer


@pytest.fixture
def seen(monkeypatch):
    """The arrays that the engines were given."""
    found = []
    run = LocalExecutor.run

    def watched(self, tasks, **options):
        found.extend((task.x, task.out) for task in tasks)
        return run(self, tasks, **options)

    monkeypatch.setattr(LocalExecutor, "run", watched)
    return found


@pytest.fixture
def files(monkeypatch):
    """Says which of the files that this test's clients made are there; other tests have their own."""
    names = []
    begin = Arena.begin_segment

    def watched(self, nbytes, **options):
        segment = begin(self, nbytes, **options)
        if segment is not None:
            names.append(segment.name)
        return segment

    monkeypatch.setattr(Arena, "begin_segment", watched)

    def there():
        assert names
        return [name for name in names if (FOLDER / name).exists()]

    return there


def image(seed=1, size=64):
    """Whole numbers: their sums have the same bits in any order, so under any plan."""
    return np.random.default_rng(seed).integers(-9, 10, (1, 8, size, size)).astype(np.float32)


def segments(client):
    return client._shared._arena._segments


def lies_in_mapping(array, server):
    """Whether an array of the server's process lies in the clients' memory."""
    return any(np.may_share_memory(array, np.frombuffer(r.memory, np.uint8)) for r in server.client_memory.regions())


def test_answers_are_those_of_the_wire(near, client):
    x, w, b = image(), np.ones((16, 8, 3, 3), np.float32), np.arange(16, dtype=np.float32)
    np.testing.assert_array_equal(near.conv2d(x, w, b, padding=1), client.conv2d(x, w, b, padding=1))
    np.testing.assert_array_equal(near.conv2d(x[0], w), client.conv2d(x[0], w))
    integers = (x * 10).astype(np.uint8)
    np.testing.assert_array_equal(
        near.conv2d(integers, w.astype(np.int8), padding=1), client.conv2d(integers, w.astype(np.int8), padding=1)
    )
    half = near.conv2d(x.astype(BFLOAT16), w)
    assert half.dtype == BFLOAT16
    steps = [Step(w, b, ConvSpec(padding=1)), Step(np.ones((4, 16, 1, 1), np.float32))]
    result = near.run(x, steps)
    np.testing.assert_array_equal(result.output, client.run(x, steps).output)
    assert len(result.report.plan.steps) == 2
    kernel = np.random.default_rng(3).standard_normal((64, 64, 3, 3)).astype(np.float32)  # in shared memory, too
    wide = np.random.default_rng(4).standard_normal((1, 64, 20, 20)).astype(np.float32)
    np.testing.assert_allclose(near.conv2d(wide, kernel), client.conv2d(wide, kernel), atol=1e-3)


def test_the_engine_reads_and_writes_the_clients_memory(sharing, near, layer, seen):
    x = near.empty((1, 8, 64, 64))
    x[...] = image()
    before = near._shared._arena.locate(x)
    y = layer(x)
    assert seen
    for read, written in seen:
        assert lies_in_mapping(read, sharing)
        assert lies_in_mapping(written, sharing)
    assert near._shared._arena.locate(x) == before
    assert near._shared._arena.locate(y) is not None
    assert y.flags.writeable
    sent = len(convolution_pb2.ConvolveRequest(input=tensor_in_region(F32, x.shape, "r" * 32, 0)).SerializeToString())
    assert sent < 100
    chained = layer(layer(x))  # an answer as an input is not copied either
    x[...] = layer(x)
    np.testing.assert_array_equal(layer(x), chained)


def test_a_small_answer_to_what_lies_there_is_each_time_the_callers_own(near):
    w = np.ones((8, 1, 64, 64), np.float32)
    with near.load_layer("tests/small", w, None, ConvSpec(groups=8)) as layer:
        x = near.empty((1, 8, 64, 64))
        x[...] = image()
        expected = image().sum((2, 3), keepdims=True)
        first, second = layer(x), layer(x)
        first += 1
        np.testing.assert_array_equal(second, expected)
        np.testing.assert_array_equal(layer(x), expected)


def test_no_file_is_left_while_it_works(near, layer, files):
    layer(image())
    assert not files()


def test_memory_is_used_again_and_results_can_be_kept_for_ever(near, layer):
    x = image()
    first = layer(x)
    assert len(segments(near)) == 1
    wanted = first.copy()
    kept = [layer(x) for _ in range(60)]  # 60 × 128 KiB, more than the first segment
    assert len(segments(near)) > 1
    for y in kept:
        np.testing.assert_array_equal(y, wanted)
    del kept
    gc.collect()
    size = sum(s.size for s in segments(near))
    for seed in range(200):
        layer(image(seed % 3))
    assert sum(s.size for s in segments(near)) == size
    np.testing.assert_array_equal(first, wanted)


def test_what_does_not_fit_travels(sharing, layer):
    with groupconv.connect(sharing.address, shared_memory=True) as client:
        client._shared._arena._capacity = FIRST
        there = client.get_layer(layer.name)
        x = image()
        wanted = layer(x)
        kept = [there(x) for _ in range(40)]
        assert len(segments(client)) == 1
        for y in kept:
            np.testing.assert_array_equal(y, wanted)
        assert not isinstance(client.empty((1, 8, 512, 512)).base, np.ndarray)  # an ordinary one


def test_out_is_filled(near, layer):
    out = np.empty((1, 8, 64, 64), np.float32)
    assert layer(image(), out=out) is out
    np.testing.assert_array_equal(out, layer(image()))


def test_results_outlive_the_client_and_the_server():
    with (
        Server(Config(port=0, executor="local", shared_memory=True)) as server,
        groupconv.connect(server.address, shared_memory=True) as client,
    ):
        y = client.conv2d(image(), np.ones((8, 8, 1, 1), np.float32))
        wanted = y.copy()
        memory = server.client_memory
        client.close()
        assert not memory.regions()
    np.testing.assert_array_equal(y, wanted)
    y += 1


def test_several_threads_use_one_client(near, layer):
    wanted = [layer(image(seed)).copy() for seed in range(4)]
    wrong = []

    def work(seed):
        wrong.extend(seed for _ in range(25) if not np.array_equal(layer(image(seed)), wanted[seed]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_awaiting(sharing, layer):
    async def main():
        async with groupconv.aio.connect(sharing.address, shared_memory=True) as client:
            there = await client.get_layer(layer.name)
            x = await client.empty((1, 8, 64, 64))
            x[...] = image()
            results = await asyncio.gather(*(there(x) for _ in range(20)))
            w = np.ones((8, 8, 1, 1), np.float32)
            return results, await client.conv2d(x, w), client._shared._arena.locate(await there(x))

    results, pointwise, at = asyncio.run(main())
    for y in results:
        np.testing.assert_array_equal(y, layer(image()))
    assert pointwise.shape == (1, 8, 64, 64)
    assert at is not None


@pytest.mark.parametrize("mode", [True, "auto"])
def test_a_server_that_does_not_allow_it(server, mode, files):
    w = np.ones((8, 8, 1, 1), np.float32)
    with groupconv.connect(server.address, shared_memory=mode) as client:
        if mode == "auto":
            assert client.conv2d(image(), w).shape == (1, 8, 64, 64)
        else:
            with pytest.raises(FailedPreconditionError, match=r"shared_memory=True.*--allow-shared-memory"):
                client.conv2d(image(), w)
    assert not files()
    with pytest.raises(InvalidArgumentError, match="shared_memory"):
        groupconv.connect("localhost:1", shared_memory="yes")


@pytest.mark.parametrize("mode", [True, "auto"])
def test_a_server_that_sees_another_dev_shm(sharing, mode, monkeypatch, files):
    """As one on another machine or in another container does: there is no object of that name."""
    monkeypatch.setattr("groupconv_server.memory.shared_memory.FOLDER", Path("/dev/shm/no-such-folder"))
    w = np.ones((8, 8, 1, 1), np.float32)
    with groupconv.connect(sharing.address, shared_memory=mode) as client:
        if mode == "auto":
            assert client.conv2d(image(), w).shape == (1, 8, 64, 64)
        else:
            with pytest.raises(FailedPreconditionError, match="another machine"):
                client.conv2d(image(), w)
    assert not files()


def test_a_server_that_was_started_anew():
    w = np.ones((8, 8, 1, 1), np.float32)
    with Server(Config(port=0, executor="local", shared_memory=True)) as server:
        client = groupconv.connect(server.address, shared_memory=True)
        x = client.empty((1, 8, 64, 64))
        x[...] = image()
        y = client.conv2d(x, w)
        port = server.port
    with client, Server(Config(port=port, executor="local", shared_memory=True)) as server:
        np.testing.assert_array_equal(client.conv2d(x, w), y)
        assert len(server.client_memory.regions()) == 1


def test_a_call_that_timed_out_leaves_its_memory_alone(sharing, near, layer, monkeypatch):
    """The server may write the answer after the client has given up: into memory that nobody uses again."""
    x = image()
    layer(x)
    (segment,) = segments(near)
    go, written = threading.Event(), threading.Event()
    run = LocalExecutor.run

    def late(self, tasks, **options):
        go.wait(30)
        for task in tasks:
            task.out[...] = -1
        written.set()
        return run(self, tasks)

    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "run", late)
        with pytest.raises(DeadlineExceededError):
            layer(x, timeout=0.2)
    assert segment not in segments(near)
    y = layer(x)
    wanted = y.copy()
    go.set()
    assert written.wait(30)
    np.testing.assert_array_equal(y, wanted)
    assert segment.size not in [r.size for r in sharing.client_memory.regions() if r.key == segment.name]


def test_a_client_that_is_killed_leaves_nothing(sharing):
    program = (
        "import sys, numpy as np, groupconv\n"
        "client = groupconv.connect(sys.argv[1], shared_memory=True)\n"
        "x = client.empty((1, 8, 64, 64)); x[...] = 1\n"
        "client.conv2d(x, np.ones((8, 8, 1, 1), np.float32))\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    before = {r.name for r in sharing.client_memory.regions()}
    child = subprocess.Popen(
        [sys.executable, "-c", program, sharing.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"ready\n"
    (mine,) = [r for r in sharing.client_memory.regions() if r.name not in before]
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert not (FOLDER / mine.key).exists()
    sharing.client_memory._grace = 0.1
    limit = time.monotonic() + 30
    while mine in sharing.client_memory.regions() and time.monotonic() < limit:
        time.sleep(0.05)
    assert mine not in sharing.client_memory.regions()


@pytest.mark.ray
def test_with_ray(ray_executor):
    """Actors have their own memory: what they compute lands in the client's all the same."""

    class OnRay(Parts):
        def executor(self):
            return ray_executor

    config = Config(port=0, executor="ray", shared_memory=True)
    x, w = image(), np.random.default_rng(0).standard_normal((8, 1, 3, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_executor, "close", lambda: None)
        patch.setattr(ray_executor, "interrupt", lambda: None)  # other tests go on with it
        with (
            Server(config, parts=OnRay(config)) as server,
            groupconv.connect(server.address, shared_memory=True) as client,
            groupconv.connect(server.address) as plain,
        ):
            source = client.empty(x.shape)
            source[...] = x
            y = client.convolve(source, w, spec=SPEC)
            assert client._shared._arena.locate(y) is not None
            np.testing.assert_array_equal(y, plain.convolve(x, w, spec=SPEC))
