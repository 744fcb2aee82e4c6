"""Bias and activation in cuDNN's graph, and channels last between its steps, under emulation."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings

from emulation import cudnn as fake_cudnn
from emulation import emulated_engine, memory, needs_compiler
from emulation.kernels import LAUNCHED
from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ACTIVATIONS, Activation, ConvSpec
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.algorithms.base import UnsupportedProblemError
from groupconv_worker.cuda.chain import ChainedKernel
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.prepared import CudaPrepared
from oracle import check
from strategies import Case, cases

pytestmark = needs_compiler
F16, F32 = np.dtype(np.float16), np.dtype(np.float32)
rng = np.random.default_rng(0)


@pytest.fixture(scope="module", params=[{}, {"chunk": 0, "workspace": 0}], ids=["plain", "pieces"])
def engine(request: pytest.FixtureRequest):
    with emulated_engine(with_cudnn=True, algorithm="cudnn", **request.param) as engine:
        yield engine


def kernel_of(engine: CudaEngine, problem: Problem, w: np.ndarray, bias: Any, variant: str = "fused") -> Any:
    with engine._device.streams():
        kernel = engine._algorithms["cudnn"](engine._device, problem, w, bias)
        kernel.take(variant)
    return kernel


def problem_of(dtype: np.dtype = F16, activation: Any = "relu", math: Any = None, groups: int = 2, channels: int = 8):
    """A problem, its input, weights and bias: whole numbers, so few that bfloat16 counts their sums exactly."""
    x = rng.integers(-2, 3, (3, channels, 6, 6)).astype(dtype)
    w = rng.integers(-1, 2, (channels, channels // groups, 3, 3)) * (
        rng.random((channels, channels // groups, 3, 3)) < 0.3
    )
    w = w.astype(dtype)
    bias = rng.integers(-3, 4, channels).astype(F32)
    spec = ConvSpec(padding=1, groups=groups, activation=activation, math=math)
    return Problem(resolve(spec, x.shape, w.shape), types_of(x.dtype, w.dtype)), x, w, bias


@settings(max_examples=120)
@given(case=cases(dtypes=(("float16", "float16"), ("bfloat16", "bfloat16"), ("float32", "float32"))))
def test_a_fused_graph_computes_bias_and_activation(engine: CudaEngine, case: Case):
    problem = Problem(case.geometry, case.types)
    assume(engine._algorithms["cudnn"].supports(problem))
    assume(case.bias is not None or case.geometry.activation is not None)
    try:
        kernel = kernel_of(engine, problem, case.weight, case.bias)
    except UnsupportedProblemError:
        slopes = len(case.geometry.activation.slope)
        assert slopes > 1 or case.types.input == F32
        assume(False)
    prepared = CudaPrepared(engine._device, ChainedKernel.of(kernel, problem))
    LAUNCHED.clear()
    for _ in range(3):  # launched, captured, by the graph
        out = np.full(case.geometry.output_shape, 77, dtype=case.types.output)
        prepared.run(case.x, out)
        check(out, case, factor=8)
    assert not any("finish" in name for name in LAUNCHED)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "math"), [("float16", None), ("bfloat16", None), ("float32", "tf32")])
def test_every_activation_is_fused_with_channels_last(engine: CudaEngine, kind: Any, dtype: str, math: Any):
    problem, x, w, bias = problem_of(DTYPES[dtype], Activation(kind), math)
    prepared = CudaPrepared(engine._device, ChainedKernel.of(kernel_of(engine, problem, w, bias), problem))
    out = np.empty(problem.geometry.output_shape, x.dtype)
    LAUNCHED.clear()
    prepared.run(x, out)
    assert not LAUNCHED
    want = reference.convolve(x, w, bias, problem.geometry)
    np.testing.assert_allclose(out.astype(np.float64), want, rtol=2**-7, atol=2**-7)


def test_the_fastest_of_both_is_kept_and_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    problem, _, w, bias = problem_of()
    # the preferred plan, plan 1 and plan 3: plan 0 is too large, 2 refuses. First with a kernel of ours, then fused
    for times, variant, index in (([3, 2, 3, 3, 1, 3], "fused1", 1), ([3, 1, 3, 3, 2, 3], "1", 1), ([3] * 6, "", None)):
        with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine:
            with engine._device.streams():
                kernel, clock = engine._algorithms["cudnn"](engine._device, problem, w, bias), iter(map(float, times))
                assert kernel.tune(lambda clock=clock: next(clock)) == min(times)
            assert next(clock, None) is None
            assert (kernel.variant(), kernel.plan(3, 2).index) == (variant, index)
            other = kernel_of(engine, problem, w, bias, variant)
            assert other.plan(3, 2) is kernel.plan(3, 2)
            again = engine._algorithms["cudnn"](engine._device, problem, w, bias)
            measured = []
            with engine._device.streams():
                again.tune(lambda measured=measured: measured.append(1) or 1.0)
            assert len(measured) == 2  # each once more, to know the faster one


def test_a_refusal_leaves_the_kernel_of_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(fake_cudnn.REFUSE, "fused", True)
    problem, x, w, bias = problem_of()
    with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine:
        with engine._device.streams():
            kernel = engine._algorithms["cudnn"](engine._device, problem, w, bias)
            kernel.tune(lambda: 1.0)
        assert kernel.variant() == ""
        with pytest.raises(UnsupportedProblemError):
            kernel_of(engine, problem, w, bias)
        out = np.empty(problem.geometry.output_shape, F16)
        CudaPrepared(engine._device, ChainedKernel.of(kernel, problem)).run(x, out)
    np.testing.assert_array_equal(out.astype(np.float64), reference.convolve(x, w, bias, problem.geometry))


def test_a_number_of_samples_that_no_engine_fuses_is_not_fused(monkeypatch: pytest.MonkeyPatch):
    problem, x, w, bias = problem_of()
    with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine:
        kernel = kernel_of(engine, problem, w, bias)
        monkeypatch.setitem(fake_cudnn.REFUSE, "fused", True)
        prepared = CudaPrepared(engine._device, ChainedKernel.of(kernel, problem))
        for batch, launched in ((3, False), (2, True)):
            out = np.empty((batch, *problem.geometry.output_shape[1:]), F16)
            LAUNCHED.clear()
            prepared.run(x[:batch], out)
            want = reference.convolve(x[:batch], w, bias, problem.geometry.with_batch(batch))
            np.testing.assert_array_equal(out.astype(np.float64), want)
            assert bool(LAUNCHED) == launched


@pytest.mark.parametrize(("activation", "fused"), [("relu", False), (Activation("leaky_relu"), False), ("tanh", True)])
def test_what_loses_a_nan_is_not_used(monkeypatch: pytest.MonkeyPatch, activation: Any, fused: bool):
    monkeypatch.setitem(fake_cudnn.NAN, "kept", False)
    problem, _, w, bias = problem_of(activation=activation)
    with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine, engine._device.streams():
        kernel = engine._algorithms["cudnn"](engine._device, problem, w, bias)
        kernel.tune(lambda: 1.0 if kernel._fused else 2.0)
        assert kernel.variant().startswith("fused") == fused


def test_a_bias_has_the_tensors_dtype_if_nothing_is_lost():
    problem, _, w, bias = problem_of()
    with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine:
        for value, kind in ((1.0, "HALF"), (0.1, "FLOAT"), (1e6, "FLOAT")):
            kernel = kernel_of(engine, problem, w, bias + F32.type(value))
            assert fake_cudnn.BUILT[-1]._bias.kind is fake_cudnn.data_type[kind]
            assert kernel.nbytes == kernel.filters.nbytes + kernel.epilogue.nbytes + kernel._graph_bias[0].nbytes


def test_a_kernel_that_is_not_fused_has_its_bias_on_the_device_once():
    problem, _, w, bias = problem_of()
    with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine:
        kernel = kernel_of(engine, problem, w, bias, variant="")
        assert kernel.nbytes == kernel.filters.nbytes + kernel.epilogue.nbytes


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch):
    """Arrays that are copied on the device to lie otherwise."""
    found: list[tuple[int, ...]] = []
    put = memory.put

    def counted(target: Any, source: Any) -> None:
        if target.strides != source.strides:
            found.append(target.shape)
        put(target, source)

    monkeypatch.setattr(memory, "put", counted)
    return found


@pytest.mark.parametrize("variant", ["fused", ""])
@pytest.mark.parametrize("channels", [8, 6])  # whole quads, and not
@pytest.mark.parametrize(("dtype", "math"), [("float16", None), ("bfloat16", None), ("float32", "tf32")])
@pytest.mark.parametrize(
    ("algorithms", "copies"),
    [("cudnn cudnn", 2), ("cudnn cudnn cudnn", 2), ("cudnn direct cudnn", 4), ("direct cudnn cudnn", 2)],
)
def test_between_steps_of_cudnn_nothing_is_moved(
    moved: list[Any], algorithms: str, copies: int, dtype: str, math: Any, channels: int, variant: str
):
    problem, x, w, bias = problem_of(DTYPES[dtype], math=math, channels=channels)
    want = x
    for _ in algorithms.split():
        want = reference.convolve(want, w, bias, problem.geometry).astype(x.dtype)
    with emulated_engine(with_cudnn=True) as engine:
        links = []
        for name in algorithms.split():
            with engine._device.streams():
                kernel = engine._algorithms[name](engine._device, problem, w, bias)
                if name == "cudnn":
                    kernel.take(variant)
            links.append(ChainedKernel.of(kernel, problem))
        prepared = CudaPrepared(engine._device, *links)
        for times in range(3):
            out = np.full(want.shape, 77, x.dtype)
            moved.clear()
            prepared.run(x, out)
            np.testing.assert_array_equal(out.astype(np.float64), want.astype(np.float64))
            assert len(moved) == (copies, 2 * copies, 0)[times]  # launched; once more, and captured; by the graph


@pytest.mark.parametrize("shape", [(2, 8, 9), (2, 8, 5, 4), (2, 8, 4, 5, 3)])
@pytest.mark.parametrize(
    ("algorithms", "copies"),
    [("cudnn", 0), ("direct", 2), ("cudnn cudnn", 0), ("cudnn direct", 2), ("direct cudnn", 2)],
)
@pytest.mark.parametrize("variant", ["fused", ""])
def test_device_arrays_with_channels_last_stay_as_they_are(
    moved: list[Any], algorithms: str, copies: int, variant: str, shape: tuple[int, ...]
):
    """Beside kernels of cuDNN. For others, each end that is theirs is transposed once, as is the map between both."""
    w = rng.integers(-1, 2, (8, 4, *[3] * (len(shape) - 2))).astype(F16)
    bias = rng.integers(-1, 2, 8).astype(F32)
    problem = Problem(resolve(ConvSpec(padding=1, groups=2, activation="relu"), shape, w.shape), types_of(F16, F16))
    x = rng.integers(-1, 2, shape).astype(F16)
    want = x
    for _ in algorithms.split():
        want = reference.convolve(want, w, bias, problem.geometry).astype(F16)
    with emulated_engine(with_cudnn=True) as engine:
        links = [
            ChainedKernel.of(kernel_of(engine, problem, w, bias, variant), problem)
            if name == "cudnn"
            else ChainedKernel.of(engine._algorithms[name](engine._device, problem, w, bias), problem)
            for name in algorithms.split()
        ]
        cupy, to_last = engine.gpu.cupy, (0, *range(2, x.ndim), 1)
        to_first = (0, x.ndim - 1, *range(1, x.ndim - 1))
        there = cupy.asarray(np.ascontiguousarray(x.transpose(to_last))).transpose(to_first)
        out = cupy.asarray(np.zeros_like(x.transpose(to_last))).transpose(to_first)
        prepared = CudaPrepared(engine._device, *links)
        for _ in range(2):
            moved.clear()
            prepared.run(there, out)
            assert len(moved) == copies
            np.testing.assert_array_equal(out.get(), want)


@pytest.mark.parametrize("shape", [(2, 8, 9), (2, 8, 4, 5, 3)])
def test_any_number_of_axes_stays_channels_last(moved: list[Any], shape: tuple[int, ...]):
    w = rng.integers(-1, 2, (8, 4, *[3] * (len(shape) - 2))).astype(F16)
    x = rng.integers(-1, 2, shape).astype(F16)
    problem = Problem(resolve(ConvSpec(padding=1, groups=2), x.shape, w.shape), types_of(F16, F16))
    want = x
    for _ in range(2):
        want = reference.convolve(want, w, None, problem.geometry).astype(F16)
    out = np.empty_like(want)
    with emulated_engine(with_cudnn=True) as engine:
        link = ChainedKernel.of(kernel_of(engine, problem, w, None, ""), problem)
        CudaPrepared(engine._device, link, link).run(x, out)
    np.testing.assert_array_equal(out, want)
    assert len(moved) == 2
