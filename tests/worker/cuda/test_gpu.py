"""The cuda engine on a real device: what the emulation cannot show. `make test-gpu`."""

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emulation.shapes import WIDE
from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import ResourceExhaustedError
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.chain import ChainedKernel
from groupconv_worker.cuda.engine import CudaEngine, why_unavailable, with_math
from groupconv_worker.cuda.options import CudaOptions
from groupconv_worker.cuda.prepared import CudaPrepared
from oracle import check
from strategies import FLOATS, INTEGERS, Case, cases, square_cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "there is a device"),
]
F32 = np.dtype(np.float32)
SAME_FLOATS = tuple((f, f) for f in FLOATS)
MIXED = tuple((a, b) for a in INTEGERS for b in (*INTEGERS, *FLOATS))


@pytest.fixture(scope="module")
def engine():
    engine = CudaEngine(options=CudaOptions(chunk=2**12))
    yield engine
    engine.close()


def run(engine: CudaEngine, name: str, case: Case) -> np.ndarray:
    problem = Problem(case.geometry, case.types)
    algorithm = engine._algorithms[name]
    assume(algorithm.supports(problem))
    with engine._device.streams():
        kernel = algorithm(engine._device, problem, case.weight, case.bias)
    out = np.full(case.geometry.output_shape, 77, dtype=case.types.output)
    CudaPrepared(engine._device, ChainedKernel.of(kernel, problem)).run(case.x, out)
    return out


@settings(max_examples=500)
@given(case=cases(dtypes=SAME_FLOATS + MIXED))
def test_as_chosen(engine: CudaEngine, case: Case):
    out = np.full(case.geometry.output_shape, 77, dtype=case.types.output)
    engine.prepare(Problem(case.geometry, case.types), case.weight, case.bias).run(case.x, out)
    check(out, case, factor=8)


@pytest.mark.parametrize("name", ["direct", "gemm", "grouped", "cudnn"])
@settings(max_examples=200)
@given(case=cases(dtypes=SAME_FLOATS))
def test_each_algorithm(engine: CudaEngine, name: str, case: Case):
    if name not in engine._algorithms:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    check(run(engine, name, case), case, factor=8)


@pytest.mark.parametrize("name", ["depthwise", "stencil"])
@settings(max_examples=500)
@given(data=st.data())
def test_sliding_kernels(engine: CudaEngine, name: str, data: st.DataObject):
    case = data.draw(square_cases(depthwise=name == "depthwise", dtypes=SAME_FLOATS[:-1]))
    check(run(engine, name, case), case, factor=8)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", WIDE)
def test_wide_shapes(engine: CudaEngine, name: str, dtype: str):
    x_shape, w_shape, options = WIDE[name]
    rng = np.random.default_rng(5)
    x = rng.integers(-1, 2, x_shape).astype(DTYPES[dtype])
    w = (rng.integers(-1, 2, w_shape) * (rng.random(w_shape) < 0.5)).astype(DTYPES[dtype])
    problem = Problem(resolve(ConvSpec(**options), x_shape, w_shape), types_of(x.dtype, w.dtype))
    want = reference.convolve(x, w, None, problem.geometry)
    for algorithm in engine._algorithms.values():
        if algorithm.algorithm in ("separable", "cudnn") or not algorithm.supports(problem):
            continue
        with engine._device.streams():
            kernel = algorithm(engine._device, problem, w, None)
        out = np.full(problem.geometry.output_shape, 77, dtype=x.dtype)
        CudaPrepared(engine._device, ChainedKernel.of(kernel, problem)).run(x, out)
        np.testing.assert_allclose(
            out.astype(np.float64), want, atol=1e-3 if algorithm.algorithm == "fft" else 0, err_msg=algorithm.algorithm
        )


def layer(batch: int = 32, extent: int = 56) -> tuple[Problem, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, 64, extent, extent), dtype=F32)
    w = rng.standard_normal((128, 32, 3, 3), dtype=F32)
    return Problem(resolve(ConvSpec(groups=2, padding=1), x.shape, w.shape), types_of(F32, F32)), x, w


def answer(engine: CudaEngine, problem: Problem, x: Any, w: np.ndarray) -> np.ndarray:
    out = np.empty(problem.geometry.output_shape, F32)
    engine.prepare(problem, w).run(x, out)
    return out


def test_pieces_of_any_size_and_runs_of_several_threads_give_the_same_bits():
    problem, x, w = layer()
    outs = []
    for chunk in (2**30, 2**22, 0):
        engine = CudaEngine(options=CudaOptions(chunk=chunk, deterministic=True))
        outs.append(answer(engine, problem, x, w))
    prepared = engine.prepare(problem, w)
    more = [np.empty_like(outs[0]) for _ in range(4)]
    threads = [threading.Thread(target=prepared.run, args=(x, out)) for out in more]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs[1:] + more:
        np.testing.assert_array_equal(out, outs[0])


def test_deterministic_runs_are_equal_bit_for_bit():
    problem, x, w = layer()
    engine = CudaEngine(options=CudaOptions(deterministic=True))
    first = answer(engine, problem, x, w)
    for _ in range(10):
        np.testing.assert_array_equal(answer(engine, problem, x, w), first)


def test_device_arrays_stay_where_they_are():
    import cupy

    problem, x, w = layer(batch=2)
    engine = CudaEngine()
    want = answer(engine, problem, x, w)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:  # the run must wait for what the caller queued on its own stream
        device_x, out = cupy.asarray(x) * 2, cupy.empty(want.shape, F32)
        engine.prepare(problem, w).run(device_x, out)
    np.testing.assert_allclose(cupy.asnumpy(out), 2 * want, rtol=1e-4, atol=1e-3)


def test_memory_limit_makes_pieces_smaller_and_then_refuses():
    problem, x, w = layer()
    free = CudaEngine(options=CudaOptions(algorithm="direct"))
    want = answer(free, problem, x, w)
    tight = CudaEngine(options=CudaOptions(algorithm="direct", memory_limit=8 * 2**20, chunk=2**30))
    np.testing.assert_array_equal(answer(tight, problem, x, w), want)
    none = CudaEngine(options=CudaOptions(algorithm="direct", memory_limit=2**20))
    with pytest.raises(ResourceExhaustedError, match="needs"):
        answer(none, problem, x, w)


def test_tensor_cores_round_and_true_float32_does_not():
    problem, x, w = layer(batch=1, extent=14)
    want = reference.convolve(x, w, None, problem.geometry)
    errors = {}
    for math in ("float32", "tf32"):
        engine = CudaEngine(options=CudaOptions(algorithm="gemm", math=math))
        errors[math] = np.abs(answer(engine, problem, x, w) - want).max() / np.abs(want).max()
    assert errors["float32"] < 1e-5
    assert errors["tf32"] < 1e-2


def test_a_resident_kernel_is_tuned_and_right(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    problem, x, w = layer(batch=2, extent=28)
    engine = CudaEngine()
    out = np.empty(problem.geometry.output_shape, F32)
    engine.prepare(problem, w, resident=True).run(x, out)
    choice = engine._choices.find(with_math(problem, "float32"), "no bias")
    assert choice is not None
    assert choice.algorithm in engine._algorithms
    want = reference.convolve(x, w, None, problem.geometry)
    np.testing.assert_allclose(out, want, rtol=1e-3, atol=1e-2)


def test_more_than_2_31_elements():
    """x and y of 2^31 + elements each: int8, so that they fit 12 GiB of device memory with the int32 output cut."""
    import cupy

    if cupy.cuda.runtime.memGetInfo()[0] < 16 * 2**30:
        pytest.skip("needs 16 GiB of free device memory")
    shape = (1, 33, 8192, 8192)  # 2.2 · 10^9
    x = cupy.zeros(shape, np.int8)
    x[0, -1, -1, -1] = 7
    w = np.zeros((1, 33, 1, 1), np.int8)
    w[0, -1] = 3
    problem = Problem(resolve(ConvSpec(), shape, w.shape), types_of(w.dtype, w.dtype))
    out = cupy.empty(problem.geometry.output_shape, np.int32)
    CudaEngine().prepare(problem, w).run(x, out)
    assert int(out[0, 0, -1, -1]) == 21
    assert int(cupy.count_nonzero(out)) == 1


LOSE_THE_DEVICE = """
import cupy, numpy as np
from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_worker.contract import DeviceLostError, Problem
from groupconv_worker.cuda.engine import CudaEngine
x, w = np.ones((1, 1, 4), np.float32), np.ones((1, 1, 1), np.float32)
problem = Problem(resolve(ConvSpec(), x.shape, w.shape), types_of(x.dtype, w.dtype))
prepared = CudaEngine().prepare(problem, w)
out = np.empty_like(x)
prepared.run(x, out)
cupy.RawKernel("extern \\"C\\" __global__ void bad() { *(volatile int*)16 = 1; }", "bad")((1,), (1,), ())
for _ in range(2):
    try:
        prepared.run(x, out)
    except DeviceLostError as error:
        print("lost:", error)
"""


def test_an_illegal_address_loses_the_device_and_is_told_twice():
    done = subprocess.run([sys.executable, "-c", LOSE_THE_DEVICE], capture_output=True, text=True, check=False)
    assert done.stdout.count("lost: the CUDA context is lost") == 2, done.stdout + done.stderr
