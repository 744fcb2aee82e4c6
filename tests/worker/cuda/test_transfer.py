"""Chunks, memory and streams around the kernels, under emulation."""

import threading

import numpy as np
import pytest

from emulation import emulated_engine, memory, needs_compiler
from emulation.stand_in import as_cupy
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import CancelledError, InternalError, ResourceExhaustedError
from groupconv_worker import reference
from groupconv_worker.contract import DeviceLostError, Problem
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.job import Job
from groupconv_worker.shard import Stage

pytestmark = needs_compiler
F32 = np.dtype(np.float32)


def problem_of(batch: int = 4, groups: int = 4, extent: int = 12, filters: int = 8, dtype: np.dtype = F32):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, 8, extent, extent)).astype(dtype)
    w = rng.standard_normal((filters, 8 // groups, 3, 3)).astype(dtype)
    problem = Problem(resolve(ConvSpec(groups=groups, padding=1), x.shape, w.shape), types_of(dtype, dtype))
    return problem, x, w, reference.convolve(x, w, None, problem.geometry)


@pytest.mark.parametrize("algorithm", ["direct", "gemm", "grouped", "fft"])
def test_out_of_memory_is_answered_by_smaller_chunks(algorithm: str):
    problem, x, w, want = problem_of(batch=16)
    with emulated_engine(algorithm=algorithm) as engine:
        prepared = engine.prepare(problem, w)
        beside = engine._device.pool.used_bytes()
        out = np.empty(problem.geometry.output_shape, F32)
        engine._device.pool.set_limit(beside + 60_000)
        prepared.run(x, out)
        assert engine._device.pool.peak <= beside + 60_000
    np.testing.assert_allclose(out, want, atol=1e-4)
    assert x.nbytes + out.nbytes > 60_000, "the whole would have fitted"


@pytest.mark.parametrize("runs", [1, 2, 3])  # launched, captured, by the graph
def test_a_run_ends_between_two_chunks_when_its_job_is_over(runs: int):
    problem, x, w, want = problem_of(batch=16)
    out = np.empty(problem.geometry.output_shape, F32)
    with emulated_engine(algorithm="direct", chunk=20_000) as engine:
        prepared = engine.prepare(problem, w)
        for _ in range(runs - 1):
            prepared.run(x, out)
        job, begun = Job(), []
        copy = engine._device.copy

        def counted(target, source):
            begun.append(1)
            if len(begun) == 2:
                job.stop(CancelledError("gone"))
            return copy(target, source)

        engine._device.copy = counted
        for captured in [r for pool in prepared._captured._pools.values() for r in pool.all]:
            captured._copy = counted
        with job, pytest.raises(CancelledError):
            prepared.run(x, out)
        assert 2 <= len(begun) < 8  # there are 16 chunks
        engine._device.copy = copy
        prepared.run(x, out)
    np.testing.assert_allclose(out, want, atol=1e-4)


def test_too_large_for_the_device_names_what_was_needed():
    problem, x, w, _ = problem_of()
    with emulated_engine(algorithm="direct") as engine:
        prepared = engine.prepare(problem, w)
        engine._device.pool.set_limit(engine._device.pool.used_bytes() + 1000)
        needed = (2 + 2) * 12 * 12 * 4  # two channels in, two out
        with pytest.raises(ResourceExhaustedError, match=f"one group of one sample needs {needed} bytes"):
            prepared.run(x, np.empty(problem.geometry.output_shape, F32))
        engine._device.pool.set_limit(0)
        prepared.run(x, np.empty(problem.geometry.output_shape, F32))  # the engine lives on


def test_weights_too_large_for_the_device():
    problem, _, w, _ = problem_of()
    with emulated_engine(memory_limit=100) as engine, pytest.raises(ResourceExhaustedError, match="weights need"):
        engine.prepare(problem, w)


@pytest.mark.parametrize(
    ("options", "variable", "limit"),
    [
        ({}, None, 0),
        ({}, "1000", 1000),  # CuPy's own variable
        ({"memory_limit": 2000}, "1000", 2000),
        ({"memory_fraction": 0.25}, "1000", 2**27),  # of 1 GiB, of which the context takes half
        ({"memory_fraction": 0.25, "memory_limit": 3000}, None, 3000),
    ],
)
def test_memory_is_limited_by_bytes_a_fraction_or_cupy_s_variable(options, variable, limit, monkeypatch):
    monkeypatch.delenv("CUPY_GPU_MEMORY_LIMIT", raising=False)
    if variable:
        monkeypatch.setenv("CUPY_GPU_MEMORY_LIMIT", variable)
    with emulated_engine(**options) as engine:
        assert engine._device.pool.get_limit() == engine._device.memory_limit == limit


def test_two_workers_of_one_device_hold_no_more_than_their_shares(monkeypatch):
    """Each has its part of the memory; one that needs more is refused, and the other goes on."""
    actor = pytest.importorskip("groupconv_worker.actor", reason="needs Ray")
    monkeypatch.setenv("GROUPCONV_CUDA_MEMORY_FRACTION", "to be unset after the test")
    monkeypatch.delenv("GROUPCONV_CUDA_MEMORY_FRACTION")
    monkeypatch.setattr("groupconv_worker.cuda.device.CONTEXT", 0)
    problem, x, w, want = problem_of()
    out = np.empty_like(want, F32)
    with as_cupy() as cupy:
        monkeypatch.setattr(cupy.cuda, "is_available", lambda: True)
        total = 64 * (x.nbytes + w.nbytes)
        properties = {"name": b"small", "totalGlobalMem": total}
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda _: properties)
        workers = [actor.Worker("cuda", 1, share=0.5) for _ in range(2)]
    pools = [worker.engine.gpu.pool for worker in workers]
    assert [pool.get_limit() for pool in pools] == [total // 2] * 2
    wide = Problem(resolve(ConvSpec(), (1, 512, 4, 4), (512, 512, 3, 3)), types_of(F32, F32))
    with pytest.raises(ResourceExhaustedError, match="weights need"):
        workers[0].engine.prepare(wide, np.zeros((512, 512, 3, 3), F32))
    workers[1].engine.prepare(problem, w).run(x, out)
    np.testing.assert_allclose(out, want, atol=1e-4)
    assert sum(pool.peak for pool in pools) <= total
    for worker in workers:
        worker.engine.close()


def test_device_memory_is_given_back():
    problem, x, w, _ = problem_of()
    with emulated_engine() as engine:
        prepared = engine.prepare(problem, w)
        out = np.empty(problem.geometry.output_shape, F32)
        prepared.run(x, out)
        before = engine._device.pool.used_bytes()
        prepared.run(x, out)
        captured = engine._device.pool.used_bytes()
        assert captured == before + x.nbytes + out.nbytes
        for _ in range(3):
            prepared.run(x, out)
        assert engine._device.pool.used_bytes() == captured
        assert engine._device.make_room()
        assert engine._device.pool.used_bytes() == before
        prepared.run(x, out)
        del prepared  # with its weights and graphs
        assert engine._device.pool.used_bytes() == 0


def test_runs_of_several_threads_do_not_meet():
    problem, x, w, want = problem_of(batch=8)
    with emulated_engine(chunk=4096) as engine:
        prepared = engine.prepare(problem, w)
        outs = [np.empty(problem.geometry.output_shape, F32) for _ in range(4)]
        threads = [threading.Thread(target=prepared.run, args=(x * (i + 1), out)) for i, out in enumerate(outs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, out in enumerate(outs):
        np.testing.assert_allclose(out, want * (i + 1), atol=1e-3)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype("float16"), types_of], ids=["f32", "f16", "bf16"])
def test_device_arrays_are_used_where_they_lie(dtype, monkeypatch: pytest.MonkeyPatch):
    from groupconv.convolution.dtypes import BFLOAT16

    dtype = BFLOAT16 if dtype is types_of else dtype
    problem, x, w, want = problem_of(dtype=dtype)
    with emulated_engine() as engine:
        prepared = engine.prepare(problem, w)
        device_x, device_out = memory.ndarray(x.copy()), memory.ndarray(np.zeros_like(want, dtype=dtype))
        with monkeypatch.context() as patch:
            for copy in ("set", "get"):  # nothing passes through the host
                patch.setattr(memory.ndarray, copy, lambda *_, **__: pytest.fail("a copy between host and device"))
            prepared.run(device_x, device_out)
        assert np.isclose(device_out.host.astype(float), want, rtol=0.02, atol=0.1).all()

        host_out = np.empty_like(device_out.host)
        prepared.run(device_x, host_out)  # one of the two on the host
        np.testing.assert_array_equal(host_out, device_out.host)
        wide = memory.ndarray(np.zeros((4, 10, 12, 12), dtype=dtype))
        prepared.run(memory.ndarray(np.repeat(x, 2, axis=3))[:, :, :, ::2], wide[:, 1:-1])  # views
        np.testing.assert_array_equal(wide.host[:, 1:-1], device_out.host)


def failing_engine(engine: CudaEngine, error: Exception) -> None:
    def launch(*_, **__):
        raise error

    engine._device.kernels.launch = launch


@pytest.mark.parametrize("status", [700, 719, 214, 721, 810, 911])
def test_a_lost_context_is_told_from_a_refused_call_and_stays_lost(status: int):
    problem, x, w, _ = problem_of()
    out = np.empty(problem.geometry.output_shape, F32)
    with emulated_engine(algorithm="direct") as engine:
        prepared = engine.prepare(problem, w)
        failing_engine(engine, engine._device.cupy.cuda.runtime.CUDARuntimeError(status))
        with pytest.raises(DeviceLostError, match=f"{status}.*must be restarted"):
            prepared.run(x, out)
        del engine._device.kernels.launch  # it would work again; the process must not be trusted with it
        with pytest.raises(DeviceLostError):
            prepared.run(x, out)
        with pytest.raises(DeviceLostError):
            engine.prepare(problem, w)


def test_a_refused_call_is_an_error_of_that_call_only():
    problem, x, w, want = problem_of()
    out = np.empty(problem.geometry.output_shape, F32)
    with emulated_engine(algorithm="direct") as engine:
        prepared = engine.prepare(problem, w)
        failing_engine(engine, engine._device.cupy.cuda.driver.CUDADriverError(701))
        with pytest.raises(InternalError, match="CUDA: CUresult701"):
            prepared.run(x, out)
        del engine._device.kernels.launch
        prepared.run(x, out)
    np.testing.assert_allclose(out, want, atol=1e-4)


def test_a_library_that_fails_over_a_lost_context_counts_as_lost(monkeypatch: pytest.MonkeyPatch):
    class CUBLASError(RuntimeError):
        status = 13

    problem, x, w, _ = problem_of()
    with emulated_engine(algorithm="direct") as engine:
        prepared = engine.prepare(problem, w)
        runtime = engine._device.cupy.cuda.runtime

        def lost():
            raise runtime.CUDARuntimeError(700)

        failing_engine(engine, CUBLASError("CUBLAS_STATUS_EXECUTION_FAILED"))
        monkeypatch.setattr(runtime, "deviceSynchronize", lost)
        with pytest.raises(DeviceLostError):
            prepared.run(x, np.empty(problem.geometry.output_shape, F32))


def test_an_actor_whose_device_is_lost_ends_its_process(monkeypatch: pytest.MonkeyPatch):
    actor = pytest.importorskip("groupconv_worker.actor", reason="needs Ray")

    class Ended(BaseException):
        pass

    def end(status: int):
        raise Ended(status)

    def lost(*_, **__):
        raise DeviceLostError("gone")

    problem, x, w, _ = problem_of()
    worker = actor.Worker("reference", 1)
    worker.engine.prepare = lost
    monkeypatch.setattr(actor.os, "_exit", end)
    with pytest.raises(Ended, match="70"):
        worker.run((Stage(problem, w),), x)
