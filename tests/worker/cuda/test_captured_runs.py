"""Captured runs, under emulation: what is captured, what is not, and that it holds its memory and no more."""

import logging
import threading
from typing import Any

import numpy as np
import pytest

from emulation import emulated_engine, needs_compiler
from groupconv.convolution.dtypes import BFLOAT16, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker import reference
from groupconv_worker.contract import DeviceLostError, Prepared, Problem
from groupconv_worker.cuda.device import GRAPH_STREAMS
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.graphs.cache import GraphCache, GraphPool

pytestmark = needs_compiler
F32 = np.dtype(np.float32)


def layer(dtype: np.dtype = F32, groups: int = 4):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 8, 12, 12)).astype(dtype)
    w = rng.standard_normal((8, 8 // groups, 3, 3)).astype(dtype)
    return Problem(resolve(ConvSpec(groups=groups, padding=1), x.shape, w.shape), types_of(dtype, dtype)), x, w


def launches(engine: CudaEngine) -> list[str]:
    """Names of the kernels launched from here on, those of replays not."""
    seen: list[str] = []
    launch = engine._device.kernels.launch

    def counted(file: str, *arguments: Any, **more: Any) -> None:
        seen.append(file)
        launch(file, *arguments, **more)

    engine._device.kernels.launch = counted
    return seen


def answer(prepared: Prepared, x: np.ndarray) -> np.ndarray:
    out = np.full((len(x), 8, 12, 12), 77, x.dtype)
    prepared.run(x, out)
    return out


def test_the_second_run_of_as_many_samples_is_captured():
    problem, x, w = layer()
    want = reference.convolve(x, w, None, problem.geometry)
    with emulated_engine(algorithm="direct") as engine:
        prepared, seen = engine.prepare(problem, w), launches(engine)
        counts = []
        for samples in (4, 4, 4, 3, 3, 4, 3):
            np.testing.assert_allclose(answer(prepared, x[:samples]), want[:samples], atol=1e-4)
            counts.append(len(seen))
        assert counts == [1, 3, 3, 4, 6, 6, 6]  # a new one is run once as it is, and once more captured


@pytest.mark.parametrize("options", [{"graph_memory": 0}, {"chunk": 1024}, {"graph_memory": 40_000}])
def test_what_is_not_captured(options: dict[str, int], caplog: pytest.LogCaptureFixture):
    problem, x, w = layer(groups=8)  # more parts of a sample than there are kinds of chunks
    with emulated_engine(algorithm="direct", **options) as engine:
        prepared = engine.prepare(problem, w)
        beside = engine._device.pool.used_bytes()
        outs = [answer(prepared, x) for _ in range(4)]
        assert engine._device.pool.used_bytes() == beside
    for out in outs[1:]:
        np.testing.assert_array_equal(out, outs[0])


@pytest.mark.parametrize(("chunk", "kinds"), [(2 * 9216, 2), (9216, 1), (5000, 2), (2304, 4)])
def test_runs_in_chunks_are_captured_chunk_by_chunk(chunk: int, kinds: int):
    """Of three samples: two and one; three; and of each sample two or four parts of its groups."""
    problem, x, w = layer()
    want = reference.convolve(x, w, None, problem.geometry)
    with emulated_engine(algorithm="direct", chunk=chunk) as engine:
        prepared, seen = engine.prepare(problem, w), launches(engine)
        counts = []
        for factor in (1, 2, -1, 3):
            np.testing.assert_allclose(answer(prepared, factor * x[:3]), factor * want[:3], atol=1e-3)
            counts.append(len(seen))
        assert counts[3] == counts[2] == counts[1]
        assert sum(pool.idle != [] for pool in prepared._captured._pools.values()) == kinds


def test_threads_without_transforms_are_given_no_plan_cache(monkeypatch: pytest.MonkeyPatch):
    """When a thread ends that has one, CuPy collects all garbage: tens of milliseconds in a large process."""
    problem, x, w = layer()
    with emulated_engine(algorithm="direct") as engine:
        config = engine._device.cupy.fft.config
        monkeypatch.setattr(config, "get_plan_cache", lambda: pytest.fail("asked for"))
        prepared, seen = engine.prepare(problem, w), launches(engine)
        for _ in range(3):
            answer(prepared, x)
        assert len(seen) == 3


def test_an_error_between_chunks_leaves_all_in_order(monkeypatch: pytest.MonkeyPatch):
    problem, x, w = layer()
    with emulated_engine(algorithm="direct", chunk=9216) as engine:
        prepared = engine.prepare(problem, w)
        want = answer(prepared, x)
        np.testing.assert_array_equal(answer(prepared, x), want)
        with pytest.raises(ValueError, match="broadcast"):
            prepared.run(x, np.empty((4, 8, 12, 13), F32))
        np.testing.assert_array_equal(answer(prepared, x), want)


def test_what_cannot_be_captured_runs_as_it_did(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    problem, x, w = layer()
    caplog.set_level(logging.DEBUG, "groupconv_worker.cuda.captured_runs")
    with emulated_engine(algorithm="direct") as engine:
        prepared = engine.prepare(problem, w)
        want, launch = answer(prepared, x), prepared._kernel.launch
        captures = []

        def refused(*arguments: Any):
            launch(*arguments)
            if engine._device.cupy.cuda.get_current_stream().is_capturing():
                captures.append(1)
                raise NotImplementedError("no capture of this")

        monkeypatch.setattr(prepared._kernel, "launch", refused)
        for _ in range(3):
            np.testing.assert_array_equal(answer(prepared, x), want)
        assert len(captures) == 1
        monkeypatch.undo()
        other = engine.prepare(problem, w)
        seen = launches(engine)
        for _ in range(3):
            np.testing.assert_array_equal(answer(other, x), want)  # the next capture is not spoilt
        assert len(seen) == 3
    assert [r.message for r in caplog.records] == ["direct of 4 samples is not captured: no capture of this"]


def test_graphs_give_way_to_newer_ones_and_to_whatever_needs_memory():
    problem, x, w = layer()
    size = 4 * x.nbytes  # input and output, here and there
    with emulated_engine(algorithm="direct", graph_memory=int(2.5 * size)) as engine:
        kernels = [engine.prepare(problem, w) for _ in range(3)]
        beside = engine._device.pool.used_bytes()
        for prepared in (*kernels, kernels[0], *kernels, kernels[0]):
            answer(prepared, x)
        assert engine._device.pool.used_bytes() == beside + 2 * size // 2
        seen = launches(engine)
        for prepared, launched in ((kernels[2], 0), (kernels[0], 0), (kernels[1], 2)):
            answer(prepared, x)
            assert len(seen) == launched
        engine._device.pool.set_limit(engine._device.pool.used_bytes() + x.nbytes)
        answer(kernels[0], x[:3])  # there is no room for this beside the graphs
        assert engine._device.pool.used_bytes() == beside


def test_many_kernels_share_the_memory_of_a_few_runs():
    problem, x, w = layer()
    with emulated_engine(algorithm="direct") as engine:
        kernels = [engine.prepare(problem, (i + 1) * w) for i in range(3 * GRAPH_STREAMS)]
        wants = [answer(kernel, x) for kernel in kernels]
        before = engine._device.pool.used_bytes()
        for kernel, want in (*zip(kernels, wants, strict=True), *zip(kernels[::-1], wants[::-1], strict=True)):
            np.testing.assert_array_equal(answer(kernel, x), want)
        assert engine._device.pool.used_bytes() == before + GRAPH_STREAMS * (x.nbytes + wants[0].nbytes)
        del kernel, kernels
        engine._device._tables.clear()  # tables of taps are kept for the next kernel of the shape
        assert engine._device.pool.used_bytes() == 0


def test_what_graphs_share_counts_once_and_for_as_long_as_one_has_it():
    class Thing:
        used = 0

        def __init__(self, *parts: int) -> None:
            self.parts = dict.fromkeys(parts, 40)

    cache, pool = GraphCache(100), GraphPool[Thing]()
    first, second = Thing(1), Thing(1, 2)
    assert cache.admit(pool, first)
    assert cache.admit(pool, second)
    del first
    assert not cache.admit(pool, Thing(3))


def test_cudnn_runs_while_it_is_captured():
    problem, x, w = layer(groups=2)
    with emulated_engine(algorithm="cudnn", with_cudnn=True) as engine:
        prepared = engine.prepare(problem, w)
        want, outs = answer(prepared, x), []
        with engine._device.streams():
            there, y = engine._device.upload(x), engine._device.upload(want)

        def work() -> None:
            prepared._kernel.launch(there, y, 0, 2**20)
            thread = threading.Thread(target=lambda: outs.append(answer(engine.prepare(problem, w), x)))
            thread.start()
            thread.join()

        assert engine._device.graphs.capture(work, wait=True, transforms=False)
    np.testing.assert_array_equal(outs, [want, want])


def test_graphs_give_way_to_weights():
    problem, x, w = layer()
    with emulated_engine(algorithm="direct") as engine:
        prepared = engine.prepare(problem, w)
        for _ in range(2):
            answer(prepared, x)
        engine._device.pool.set_limit(engine._device.pool.used_bytes())
        answer(engine.prepare(problem, w), x)


def test_memory_of_a_dropped_kernel_is_free():
    problem, x, w = layer()
    with emulated_engine() as engine:
        for _ in range(2):
            prepared = engine.prepare(problem, w)
            for _ in range(3):
                answer(prepared, x)
            del prepared
            assert engine._device.pool.used_bytes() == 0
            assert engine._device.graph_cache.clear() is False


@pytest.mark.parametrize("chunk", [2**20, 2**14])
@pytest.mark.parametrize("algorithm", ["direct", "gemm", "fft", "grouped", "cudnn"])
def test_threads_have_graphs_of_their_own(algorithm: str, chunk: int):
    problem, x, w = layer(groups=2)
    with emulated_engine(algorithm=algorithm, chunk=chunk, with_cudnn=algorithm == "cudnn") as engine:
        prepared = engine.prepare(problem, w)
        wants = [answer(prepared, x * (i + 1)) for i in range(6)]
        wrong: list[int] = []

        def run(i: int) -> None:
            wrong.extend(i for _ in range(10) if not np.array_equal(answer(prepared, x * (i + 1)), wants[i]))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


@pytest.mark.parametrize("dtype", [F32, BFLOAT16])
def test_arrays_of_any_strides(dtype: np.dtype):
    problem, x, w = layer(dtype)
    with emulated_engine() as engine:
        prepared = engine.prepare(problem, w)
        want = answer(prepared, x)
        for _ in range(2):
            wide_x, wide_out = np.zeros((4, 8, 12, 24), dtype), np.zeros((4, 16, 12, 12), dtype)
            wide_x[..., ::2] = x
            prepared.run(wide_x[..., ::2], wide_out[:, ::2])
            np.testing.assert_array_equal(wide_out[:, ::2], want)
            assert not wide_out[:, 1::2].any()


def test_a_device_lost_in_a_captured_run_stays_lost(monkeypatch: pytest.MonkeyPatch):
    problem, x, w = layer()
    with emulated_engine() as engine:
        prepared = engine.prepare(problem, w)
        for _ in range(2):
            answer(prepared, x)
        error = engine._device.cupy.cuda.runtime.CUDARuntimeError(719)
        (captured,) = prepared._captured._pools[4, 0, False].idle

        def lost(_: Any):
            raise error

        monkeypatch.setattr(captured, "_launch", lost)
        with pytest.raises(DeviceLostError):
            answer(prepared, x)
        monkeypatch.undo()
        with pytest.raises(DeviceLostError):
            answer(prepared, x)
