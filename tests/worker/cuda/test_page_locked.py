"""Arrays in page-locked memory, under emulation: the device copies from them and to them by itself."""

import numpy as np
import pytest

from emulation import emulated_engine, needs_compiler
from groupconv.convolution.dtypes import BFLOAT16, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_server.executors import Task
from groupconv_server.executors.lanes.lane import LaneConnection
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.lanes.endpoint import LaneEndpoint
from groupconv_worker.lanes.handshake import new_key
from groupconv_worker.lanes.memory import UNIT, MappedMemory
from groupconv_worker.runtime import run_shard
from groupconv_worker.shard import Stage
from waiting import until

pytestmark = needs_compiler


def layer(dtype: np.dtype, batch: int = 4):
    rng = np.random.default_rng(1)
    x = rng.integers(-3, 4, (batch, 8, 12, 12)).astype(dtype)
    w = rng.integers(-1, 2, (8, 2, 3, 3)).astype(dtype)
    problem = Problem(resolve(ConvSpec(groups=4, padding=1), x.shape, w.shape), types_of(x.dtype, w.dtype))
    y = reference.convolve(x, w, None, problem.geometry).astype(problem.types.output)
    return problem, x, w, y


@pytest.fixture
def memory():
    return MappedMemory(4 * UNIT)


def lock(engine, memory: MappedMemory):
    """Page-lock all of a memory. Returns what undoes it."""
    return engine.gpu.page_locked.register(memory.array(0, np.dtype(np.uint8), (memory.size,)))


def in_memory(memory: MappedMemory, x: np.ndarray, y: np.ndarray):
    """Arrays for input and output in a memory, as a lane has them."""
    there = memory.array(0, x.dtype, x.shape), memory.array(x.nbytes, y.dtype, y.shape)
    there[0][...], there[1][...] = x, 0
    return there


def refuse_copies(engine, monkeypatch):
    """From now on an array that is copied by the CPU fails the test."""
    monkeypatch.setattr(type(engine.gpu.copy), "__call__", lambda *_: pytest.fail("copied by the CPU"))


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16, np.dtype(np.int8)])
@pytest.mark.parametrize("chunk", [2**23, 4000, 700])  # the whole, samples, groups of a sample
def test_nothing_is_copied_by_the_cpu(memory, dtype, chunk, monkeypatch):
    problem, x, w, y = layer(dtype)
    with emulated_engine(algorithm="direct", chunk=chunk) as engine:
        lock(engine, memory)
        refuse_copies(engine, monkeypatch)
        prepared = engine.prepare(problem, w)
        for _ in range(4):  # launched, captured, by the graph
            here, out = in_memory(memory, x, y)
            prepared.run(here, out)
            np.testing.assert_array_equal(out, y)
        monkeypatch.setattr(engine.gpu.pinned, "malloc", lambda _: pytest.fail("pinned"))
        prepared.run(*in_memory(memory, x, y))


def test_one_of_both_may_be_ordinary_memory(memory):
    problem, x, w, y = layer(np.dtype(np.float32))
    with emulated_engine(algorithm="direct") as engine:
        lock(engine, memory)
        prepared = engine.prepare(problem, w)
        here, there = in_memory(memory, x, y)
        for a, b in ((here, np.zeros_like(y)), (x, there), (here[:, :, ::-1], there), (here, there)):
            want = y if a.strides[2] > 0 else reference.convolve(np.ascontiguousarray(a), w, None, problem.geometry)
            for _ in range(3):
                b[...] = 0
                prepared.run(a, b)
                np.testing.assert_array_equal(b, want)


def test_graphs_of_one_stream_keep_apart(memory, monkeypatch):
    """Two layers whose graphs share device memory, one with page-locked arrays and one without, in turn."""
    problem, x, w, y = layer(np.dtype(np.float32))
    with emulated_engine(algorithm="direct") as engine:
        stream = engine.gpu.next_graph_stream()
        monkeypatch.setattr(engine.gpu, "next_graph_stream", lambda: stream)
        lock(engine, memory)
        first, second = engine.prepare(problem, w), engine.prepare(problem, -w)
        for _ in range(3):
            here, out = in_memory(memory, x, y)
            first.run(here, out)
            other = np.empty_like(y)
            second.run(x, other)
            np.testing.assert_array_equal(out, y)
            np.testing.assert_array_equal(other, -y)


def test_registered_once_and_forgotten_at_the_end(caplog):
    problem, x, w, y = layer(np.dtype(np.float32))
    with emulated_engine(algorithm="direct", page_locked=3 * UNIT) as engine:
        host, locked = engine.gpu.cupy.host, engine.gpu.page_locked
        memories = [MappedMemory(UNIT) for _ in range(4)]
        undo = [lock(engine, memory) for memory in memories]
        assert list(host.registered.values()) == [UNIT] * 3  # the fourth is beyond the limit
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert "not page-locked" in caplog.text
        assert [locked.holds(m.array(8, np.dtype(np.uint8), (8,))) for m in memories] == [True, True, True, False]
        assert not locked.holds(memories[0].array(0, np.dtype(np.uint8), (UNIT,))[::2])
        assert not locked.holds(np.empty(8))
        for each in undo:
            each()
        assert not host.registered
        assert locked.nbytes == 0
        assert not locked.holds(memories[0].array(0, np.dtype(np.uint8), (8,)))
        prepared, out = engine.prepare(problem, w), np.empty_like(y)
        prepared.run(x, out)
        np.testing.assert_array_equal(out, y)


def test_what_cuda_refuses_is_copied_as_before(memory, caplog):
    problem, x, w, y = layer(np.dtype(np.float32))
    with emulated_engine(algorithm="direct") as engine:
        engine.gpu.cupy.host.limit = 0
        for _ in range(3):
            lock(engine, memory)()
        assert len(caplog.records) == 1
        assert "CUDA refuses" in caplog.text
        here, out = in_memory(memory, x, y)
        engine.prepare(problem, w).run(here, out)
        np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_a_lane_s_memory_is_locked_once_and_until_its_end(host, monkeypatch):
    key = new_key()
    with emulated_engine(algorithm="direct") as engine:
        refuse_copies(engine, monkeypatch)
        registered, register = engine.gpu.cupy.host.registered, engine.gpu.page_locked.register
        locked = []

        def run(stages, x, out, expires, *, dropped, borrowed):
            return run_shard(engine, stages, x, out)

        endpoint = LaneEndpoint(run, key, host, lambda memory: locked.append(memory.nbytes) or register(memory))
        line = LaneConnection(endpoint.address, key)
        for batch, count in ((10, 1), (3, 1), (40, 2), (2, 2)):
            problem, x, w, y = layer(np.dtype(np.float32), batch)
            out = np.empty_like(y)
            line.send(Task(0, "", (Stage(problem, w),), x, out), None, full=False)
            assert line.receive(out) is not None
            np.testing.assert_array_equal(out, y)
            assert len(locked) == count
            assert len(registered) == 1  # the smaller memory was unlocked
        line.close()
        until(lambda: not registered)
        endpoint.close()
