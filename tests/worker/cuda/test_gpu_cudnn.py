"""cuDNN's fused graphs, and channels last between its steps, on a device. `make test-gpu`."""

from typing import Any

import numpy as np
import pytest

from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ACTIVATIONS, Activation, ConvSpec
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.chain import ChainedKernel
from groupconv_worker.cuda.engine import CudaEngine, why_unavailable
from groupconv_worker.cuda.prepared import CudaPrepared

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "there is a device"),
]
F32 = np.dtype(np.float32)
KINDS = [("float16", None), ("bfloat16", None), ("float32", "tf32")]
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def engine():
    engine = CudaEngine()
    if "cudnn" not in engine._algorithms:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    yield engine
    engine.close()


def layer(dtype: str, math: Any, activation: Any, *, transposed: bool = False):
    """A problem, its input, weights and bias: whole numbers, so that sums are exact in every precision."""
    x = rng.integers(-2, 3, (4, 64, 14, 14)).astype(DTYPES[dtype])
    w = (rng.integers(-1, 2, (64, 32, 3, 3)) * (rng.random((64, 32, 3, 3)) < 0.2)).astype(x.dtype)
    bias = rng.integers(-3, 4, w.shape[0]).astype(F32)
    spec = ConvSpec(padding=1, groups=2, activation=activation, math=math, transposed=transposed)
    return Problem(resolve(spec, x.shape, w.shape), types_of(x.dtype, w.dtype)), x, w, bias


def fused(engine: CudaEngine, problem: Problem, w: np.ndarray, bias: np.ndarray) -> Any:
    with engine._device.streams():
        kernel = engine._algorithms["cudnn"](engine._device, problem, w, bias)
        kernel.take("fused")
    return kernel


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "math"), KINDS)
def test_a_fused_graph_is_what_the_reference_is(engine: CudaEngine, dtype: str, math: Any, kind: Any):
    problem, x, w, bias = layer(dtype, math, Activation(kind))
    prepared = CudaPrepared(engine._device, ChainedKernel.of(fused(engine, problem, w, bias), problem))
    want = reference.convolve(x, w, bias, problem.geometry)
    for _ in range(3):  # launched, captured, by the graph
        out = np.zeros(want.shape, x.dtype)
        prepared.run(x, out)
        np.testing.assert_allclose(out.astype(np.float64), want, rtol=2**-7, atol=2**-6)
    assert sum(len(pool.all) for pool in prepared._captured._pools.values()) == 1, "the graph is not captured"


@pytest.mark.parametrize(("dtype", "math"), KINDS)
def test_the_gradient_is_fused(engine: CudaEngine, dtype: str, math: Any):
    x = rng.integers(-2, 3, (4, 64, 14, 14)).astype(DTYPES[dtype])
    w = rng.integers(-1, 2, (64, 32, 4, 4)).astype(x.dtype)
    bias = rng.integers(-3, 4, 32).astype(F32)
    spec = ConvSpec(padding=1, stride=2, transposed=True, activation="relu", math=math)
    problem = Problem(resolve(spec, x.shape, w.shape), types_of(x.dtype, w.dtype))
    out = np.empty(problem.geometry.output_shape, x.dtype)
    CudaPrepared(engine._device, ChainedKernel.of(fused(engine, problem, w, bias), problem)).run(x, out)
    want = reference.convolve(x, w, bias, problem.geometry)
    np.testing.assert_allclose(out.astype(np.float64), want, rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize(("dtype", "math"), KINDS)
def test_a_tuned_kernel_keeps_a_nan(engine: CudaEngine, dtype: str, math: Any):
    problem, x, w, bias = layer(dtype, math, "relu")
    with engine._device.streams():
        kernel = engine._algorithms["cudnn"](engine._device, problem, w, bias)
        kernel.tune(lambda: 1.0 if kernel._fused else 2.0)  # fused, if any of those plans keeps a NaN
        print(f"{dtype} {math}: {kernel.variant() or 'not fused'}")
    x[0, 0, 0, 0] = np.nan
    out = np.empty(problem.geometry.output_shape, x.dtype)
    CudaPrepared(engine._device, ChainedKernel.of(kernel, problem)).run(x, out)
    want = reference.convolve(x, w, bias, problem.geometry)
    np.testing.assert_array_equal(np.isnan(out.astype(np.float64)), np.isnan(want))


@pytest.mark.parametrize("variant", ["fused", ""])
@pytest.mark.parametrize(("dtype", "math"), KINDS)
def test_a_chain_stays_channels_last(engine: CudaEngine, dtype: str, math: Any, variant: str):
    problem, x, w, bias = layer(dtype, math, "tanh")
    with engine._device.streams():
        kernel = engine._algorithms["cudnn"](engine._device, problem, w, bias)
        kernel.take(variant)
    alone, chain = (CudaPrepared(engine._device, *[ChainedKernel.of(kernel, problem)] * n) for n in (1, 3))
    want, out = x, np.empty(problem.geometry.output_shape, x.dtype)
    for _ in range(3):
        step = np.empty_like(out)
        alone.run(want, step)
        want = step
    for _ in range(3):
        out[...] = 0
        chain.run(x, out)
        np.testing.assert_allclose(out.astype(np.float64), want.astype(np.float64), rtol=2**-7, atol=2**-7)
