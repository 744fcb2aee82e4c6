"""Captured runs on a real device. `make test-gpu`."""

import os
import threading

import numpy as np
import pytest
from hypothesis import assume, given, settings

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker.contract import Prepared, Problem
from groupconv_worker.cuda.chain import ChainedKernel
from groupconv_worker.cuda.engine import CudaEngine, why_unavailable
from groupconv_worker.cuda.options import CudaOptions
from groupconv_worker.cuda.prepared import CudaPrepared
from oracle import check
from strategies import FLOATS, INTEGERS, Case, cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "there is a device"),
]
F32 = np.dtype(np.float32)
NAMES = ["direct", "gemm", "depthwise", "grouped", "fft", "separable", "cudnn"]
DTYPES = (*((f, f) for f in FLOATS), *((i, f) for i in INTEGERS for f in FLOATS))


@pytest.fixture(scope="module")
def engine():
    engine = CudaEngine()
    yield engine
    engine.close()


def layer(groups: int = 32, extent: int = 14, batch: int = 4) -> tuple[Problem, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, 64, extent, extent), dtype=F32)
    column, row = (rng.standard_normal((64, 64 // groups, *shape), dtype=F32) for shape in ((5, 1), (1, 5)))
    w = column * row  # of rank 1
    return Problem(resolve(ConvSpec(groups=groups, padding=2), x.shape, w.shape), types_of(F32, F32)), x, w


def prepare(engine: CudaEngine, name: str, problem: Problem, w: np.ndarray, bias: np.ndarray | None = None) -> Prepared:
    if name not in engine._algorithms:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    algorithm = engine._algorithms[name]
    with engine._device.streams():
        return CudaPrepared(engine._device, ChainedKernel.of(algorithm(engine._device, problem, w, bias), problem))


def captured_chunks(prepared: Prepared) -> int:
    return sum(len(pool.all) for pool in prepared._captured._pools.values())


def answer(prepared: Prepared, problem: Problem, x: np.ndarray) -> np.ndarray:
    out = np.full((len(x), *problem.geometry.output_shape[1:]), 77, problem.types.output)
    prepared.run(x, out)
    return out


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_is_captured_and_its_runs_are_equal(engine: CudaEngine, name: str):
    problem, x, w = layer(groups=64)
    prepared = prepare(engine, name, problem, w)
    first = answer(prepared, problem, x)
    other = answer(prepared, problem, -x)
    assert captured_chunks(prepared) == 1
    for _ in range(20):
        np.testing.assert_allclose(answer(prepared, problem, x), first, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(answer(prepared, problem, -x), other, rtol=1e-5, atol=1e-5)
    assert captured_chunks(prepared) == 1


@pytest.mark.parametrize("name", ["direct", "gemm", "grouped", "cudnn"])
@settings(max_examples=60, deadline=None)
@given(case=cases(dtypes=DTYPES))
def test_captured_runs_of_anything(engine: CudaEngine, name: str, case: Case):
    problem = Problem(case.geometry, case.types)
    assume(name not in engine._algorithms or engine._algorithms[name].supports(problem))
    prepared = prepare(engine, name, problem, case.weight, case.bias)
    for x in (case.x, np.zeros_like(case.x), case.x):
        out = answer(prepared, problem, x)
    assert captured_chunks(prepared) == 1
    check(out, case, factor=8)


@pytest.mark.parametrize("name", NAMES)
def test_threads_with_different_data(engine: CudaEngine, name: str):
    problem, x, w = layer(groups=64)
    prepared = prepare(engine, name, problem, w)
    wants = [answer(prepared, problem, x * (i + 1)) for i in range(8)]
    wrong = []

    def run(i: int) -> None:
        for _ in range(100):
            got = answer(prepared, problem, x * (i + 1))
            wrong.extend([i] * (not np.allclose(got, wants[i], rtol=1e-4, atol=1e-4)))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 1 <= captured_chunks(prepared) <= 8


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_cudnn_is_captured_while_others_run_it(engine: CudaEngine, groups: int):
    """For some shapes its plan runs on streams of the handle's own."""
    problem, x, w = layer(groups=groups)
    want, wrong = answer(prepare(engine, "direct", problem, w), problem, x), []

    def run() -> None:
        prepared = prepare(engine, "cudnn", problem, w)
        for _ in range(10):
            wrong.extend([1] * (not np.allclose(answer(prepared, problem, x), want, rtol=1e-3, atol=1e-3)))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_kernels_of_several_algorithms_at_once(engine: CudaEngine):
    """Graphs are captured while other kernels run, captured and not."""
    problem, x, w = layer(groups=64)
    names = [name for name in NAMES if name in engine._algorithms]
    wrong = []

    def run(name: str) -> None:
        for _ in range(5):
            prepared = prepare(engine, name, problem, w)
            want = answer(prepared, problem, x)
            for n in (4, 3, 2, 4, 3, 2, 4, 3, 2):
                got = answer(prepared, problem, x[:n])
                wrong.extend([name] * (not np.allclose(got, want[:n], rtol=1e-3, atol=1e-3)))

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_does_not_grow_and_gives_way():
    import cupy

    problem, x, w = layer(groups=1)
    engine = CudaEngine(options=CudaOptions(graph_memory=64 * 2**20))
    want = answer(prepare(engine, "gemm", problem, w), problem, x)

    def used() -> int:
        if "PYTEST_XDIST_WORKER" in os.environ:  # other tests use the device
            return int(engine._device.pool.total_bytes())
        free, total = cupy.cuda.runtime.memGetInfo()
        return int(total - free)

    seen = []
    for _ in range(40):
        prepared = prepare(engine, "gemm", problem, w)
        for n in (4, 4, 3, 3, 4):
            np.testing.assert_allclose(answer(prepared, problem, x[:n]), want[:n], rtol=1e-3, atol=1e-3)
        seen.append(used())
    for _ in range(3000):
        answer(prepared, problem, x)
    assert used() <= seen[20] + 4 * 2**20
    assert seen[-1] <= seen[20] + 4 * 2**20
    engine._device.pool.set_limit(engine._device.pool.used_bytes() + 2**16)
    other = prepare(engine, "direct", problem, w)  # which needs what the captured graphs hold
    np.testing.assert_allclose(answer(other, problem, x), want, rtol=1e-3, atol=1e-3)
    engine.close()
