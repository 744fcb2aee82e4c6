"""Each algorithm of the cuda engine by itself, under emulation, against the float64 reference."""

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings

from emulation import emulated_engine, needs_compiler
from emulation.kernels import LAUNCHED
from emulation.shapes import WIDE
from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.algorithms import direct as cuda_direct
from groupconv_worker.cuda.algorithms.fft import transform_shape
from groupconv_worker.cuda.chain import ChainedKernel
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.prepared import CudaPrepared
from oracle import UNIT, check, expected
from strategies import FLOATS, INTEGERS, Case, cases, square_cases

pytestmark = needs_compiler

SAME_FLOATS = tuple((f, f) for f in FLOATS)
EVERY_DTYPE = (
    *SAME_FLOATS,
    *((a, b) for a in INTEGERS for b in INTEGERS),
    *((a, b) for a in INTEGERS for b in FLOATS),
)
# Threads of a block from first to last, and from last to first with hardly any memory: pieces of one group,
# workspaces of the least size. A result that depends on either is wrong.
SETTINGS = {"plain": {}, "reversed": {"descending": True, "chunk": 0, "workspace": 0, "graph_memory": 0}}


def engine_of(name: str, **more: Any):
    @pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS)
    def engine(request: pytest.FixtureRequest):
        with emulated_engine(algorithm=name, **request.param, **more) as engine:
            yield engine

    return engine


direct, gemm, grouped = engine_of("direct"), engine_of("gemm"), engine_of("grouped")
depthwise_engine, stencil = engine_of("depthwise"), engine_of("stencil")
NARROW = (*((f, f) for f in FLOATS[:-1]), ("uint8", "float32"))
fft, separable, cudnn = engine_of("fft"), engine_of("separable"), engine_of("cudnn", with_cudnn=True)


def captured_chunks(prepared: Any) -> int:
    return sum(len(pool.all) for pool in prepared._captured._pools.values())


def run(engine: CudaEngine, case: Case) -> np.ndarray:
    """As oracle.run, where the algorithm asked for takes the case; run again it is a captured graph."""
    problem = Problem(case.geometry, case.types)
    algorithm = engine._algorithms[engine._device.options.algorithm]
    assume(algorithm.supports(problem))
    out = np.full(case.geometry.output_shape, 77, dtype=case.types.output)
    prepared = engine.prepare(problem, case.weight, case.bias)
    assert prepared.algorithm == algorithm.algorithm
    prepared.run(case.x, out)
    if engine._device.options.graph_memory:
        again = np.full_like(out, 77)
        prepared.run(np.zeros_like(case.x), again)  # a graph that names anything of this run would show
        prepared.run(case.x, again)
        np.testing.assert_array_equal(again.astype(np.float64), out.astype(np.float64))
        assert captured_chunks(prepared) == 1
    return out


@settings(max_examples=80)
@given(case=cases(dtypes=EVERY_DTYPE))
def test_direct(direct: CudaEngine, case: Case):
    check(run(direct, case), case)


@contextmanager
def in_parts(engine: CudaEngine):
    """Reductions are cut where it does not pay, as small ones never do: a device has room for all parts."""
    with pytest.MonkeyPatch.context() as patch:
        for cost in ("PART_COST", "LAUNCH_COST"):
            patch.setattr(cuda_direct, cost, 0)
        patch.setattr(engine._device, "multiprocessors", 10_000)
        yield


@settings(max_examples=60)
@given(case=cases(dtypes=EVERY_DTYPE))
def test_direct_in_parts(direct: CudaEngine, case: Case):
    with in_parts(direct):
        check(run(direct, case), case)


LONG_SUMS = {
    **{name: WIDE[name] for name in ("tile of 128 filters", "tile of 64 filters", "circular")},
    "upsampling of many channels": ((1, 40, 5, 6), (40, 3, 4, 4), {"transposed": True, "stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("name", LONG_SUMS)
def test_parts_add_up(name: str):
    x_shape, w_shape, options = LONG_SUMS[name]
    rng = np.random.default_rng(5)
    x, w = (rng.integers(-1, 2, shape).astype(np.float32) for shape in (x_shape, w_shape))
    problem = Problem(resolve(ConvSpec(**options), x_shape, w_shape), types_of(x.dtype, w.dtype))
    out = np.full(problem.geometry.output_shape, 77, dtype=np.float32)
    with emulated_engine(algorithm="direct") as engine, in_parts(engine):
        engine.prepare(problem, w).run(x, out)
        assert ("finish.cu", "groupconv::combine<float, float>") in engine._device.kernels._functions
    np.testing.assert_array_equal(out, reference.convolve(x, w, None, problem.geometry))


@settings(max_examples=60)
@given(case=cases(transposed=True))
def test_direct_transposed(direct: CudaEngine, case: Case):
    check(run(direct, case), case)


@settings(max_examples=60)
@given(case=cases(dtypes=SAME_FLOATS))
def test_gemm(gemm: CudaEngine, case: Case):
    # the sum is rounded to the output dtype before bias and activation, not only after
    check(run(gemm, case), case, factor=8)


@settings(max_examples=60)
@given(case=cases(dtypes=SAME_FLOATS, transposed=False))
def test_grouped(grouped: CudaEngine, case: Case):
    check(run(grouped, case), case)


@settings(max_examples=150)
@given(case=square_cases(depthwise=True, dtypes=NARROW))
def test_depthwise(depthwise_engine: CudaEngine, case: Case):
    check(run(depthwise_engine, case), case)


@settings(max_examples=100)
@given(case=square_cases(depthwise=False, dtypes=NARROW))
def test_stencil(stencil: CudaEngine, case: Case):
    check(run(stencil, case), case)


def test_depthwise_arrays_that_begin_anywhere_give_the_same_bits(depthwise_engine: CudaEngine):
    """Vectors need whole ones; one element further on, the kernel for any map takes over."""
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((2, 3, 9, 16), dtype=np.float32), rng.standard_normal((3, 1, 3, 3), dtype=np.float32)
    problem = Problem(resolve(ConvSpec(groups=3, padding=1), x.shape, w.shape), types_of(x.dtype, w.dtype))
    device, outs = depthwise_engine._device, []
    LAUNCHED.clear()
    with device.streams():
        kernel = depthwise_engine._algorithms["depthwise"](device, problem, w, None)
        for shift in (0, 1):
            there, y = device.upload(np.pad(x.reshape(-1), (shift, 0))), device.cupy.empty(x.size + shift, x.dtype)
            kernel.launch(there[shift:].reshape(x.shape), y[shift:].reshape(x.shape), 0, 0)
            outs.append(y.get()[shift:].reshape(x.shape))
    assert {"groupconv::depthwise<float, 3, 1, 4, 4>", "groupconv::depthwise<float, 3, 1, 1, 8>"} == LAUNCHED
    np.testing.assert_array_equal(*outs)
    np.testing.assert_allclose(outs[0], reference.convolve(x, w, None, problem.geometry), atol=1e-5)


@settings(max_examples=60)
@given(case=cases(dtypes=(("float32", "float32"), ("float64", "float64"), ("uint8", "float32")), transposed=False))
def test_fft(fft: CudaEngine, case: Case):
    """Normwise, as transforms are: every output shares the rounding of the longest transform.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., theorem 24.2: the error of a transform
    of length L is within a small multiple of log2(L) units of its norm; a product has the product of the norms.
    """
    got = run(fft, case).astype(np.float64)
    length = np.prod(transform_shape(case.geometry))
    norms = [np.linalg.norm(a.astype(np.float64)) for a in (case.x, case.weight)]
    unit = UNIT[str(case.types.output)]
    error = np.abs(got - expected(case))
    assert (error <= unit * (8 * (np.log2(length) + 1) * np.prod(norms) + 8 * (np.abs(got) + 1))).all()


@settings(max_examples=80)
@given(case=cases(rank=2, dtypes=(("float32", "float32"), ("float64", "float64")), transposed=False))
def test_separable(separable: CudaEngine, case: Case):
    g = case.geometry
    kernel = case.weight[: g.groups, :1]
    weight = (kernel[:, :, :, :1] * kernel[:, :, :1, :]).astype(case.types.weight)
    case = depthwise(case, weight)
    check(run(separable, case), case, factor=16)  # the factors are rounded, and a sum of sums


@settings(max_examples=80)
@given(case=cases(dtypes=(("float16", "float16"), ("bfloat16", "bfloat16"), ("float32", "float32"))))
def test_cudnn(cudnn: CudaEngine, case: Case):
    check(run(cudnn, case), case, factor=8)


def depthwise(case: Case, weight: np.ndarray) -> Case:
    """The case with as many channels as groups and this weight (g, 1, *K)."""
    g = case.geometry
    spec = replace_activation(case.spec)
    x = case.x[:, : g.groups]
    bias = None if case.bias is None else case.bias[: g.groups]
    return Case(spec, x, weight, bias, resolve(spec, x.shape, weight.shape), case.types)


def replace_activation(spec: ConvSpec) -> ConvSpec:
    """Without slopes per channel, which are as many as the channels were."""
    few = spec.activation is None or len(spec.activation.slope) <= 1
    return spec if few else replace_spec(spec, activation=None)


def replace_spec(spec: ConvSpec, **changes: Any) -> ConvSpec:
    fields = {name: getattr(spec, name) for name in ConvSpec.__slots__}
    return ConvSpec(**{**fields, **changes})


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("dtype", FLOATS)
def test_wide_shapes(name: str, dtype: str):
    """Every algorithm that takes the shape, on values whose sums are exact: bit for bit, transforms but nearly."""
    x_shape, w_shape, options = WIDE[name]
    rng = np.random.default_rng(5)
    x = rng.integers(-1, 2, x_shape).astype(DTYPES[dtype])
    # so few that no sum passes 256, up to which bfloat16 counts exactly
    w = (rng.integers(-1, 2, w_shape) * (rng.random(w_shape) < 0.5)).astype(DTYPES[dtype])
    problem = Problem(resolve(ConvSpec(**options), x_shape, w_shape), types_of(x.dtype, w.dtype))
    want = reference.convolve(x, w, None, problem.geometry)
    with emulated_engine(chunk=2**12) as engine:
        taken = [a for a in engine._algorithms.values() if a.algorithm != "separable" and a.supports(problem)]
        assert len(taken) >= (1 if problem.geometry.transposed else 2)
        for algorithm in taken:
            out = np.full(problem.geometry.output_shape, 77, dtype=x.dtype)
            with engine._device.streams():
                kernel = algorithm(engine._device, problem, w, None)
            CudaPrepared(engine._device, ChainedKernel.of(kernel, problem)).run(x, out)
            np.testing.assert_allclose(
                out.astype(np.float64),
                want,
                atol=1e-3 if algorithm.algorithm == "fft" else 0,
                err_msg=algorithm.algorithm,
            )
