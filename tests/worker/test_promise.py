"""The bound that docs/convolution.md promises for each output, on data of high dynamic range.

|y - exact| <= terms·u·(|x| ∗ |w| + |bias|) at every output, with u the unit roundoff of the accumulator.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from emulation import emulated_engine, needs_compiler
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import Geometry, resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.algorithms.cells import Cells
from groupconv_worker.cpu.algorithms.direct import Direct
from groupconv_worker.cpu.algorithms.fft import Fft
from groupconv_worker.cpu.algorithms.gemm import Gemm
from groupconv_worker.cpu.algorithms.grouped import Grouped
from groupconv_worker.cpu.algorithms.onnx import OnnxRuntime
from groupconv_worker.cpu.algorithms.separable import Separable
from groupconv_worker.cpu.algorithms.winograd import FEWEST, Winograd
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.reference import convolve
from oracle import UNIT

TEAM, BUFFERS = Team(2), BufferPool()
ALGORITHMS = {
    a.name: a
    for a in (
        Fft(TEAM),
        Winograd(TEAM, BUFFERS),
        Direct(TEAM, BUFFERS),
        Cells(TEAM, BUFFERS),
        Grouped(TEAM, BUFFERS),
        Separable(TEAM, BUFFERS),
        OnnxRuntime(TEAM),
        Gemm(np, scipy.special.erf, team=TEAM),
    )
}
FIELDS = ("normal", "pixel", "star", "mixed", "halves", "channels", "samples", "empty", "dead channel")
"""Maps whose values differ by many orders of magnitude, or hardly."""


def field(kind: str, rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A map (N, C, H, W)."""
    x = rng.standard_normal(shape) if kind in ("normal", "mixed", "channels", "samples") else 0.01 + rng.random(shape)
    n, c, *cell = (int(rng.integers(extent)) for extent in shape)
    place = (n, c, *cell)
    if kind == "pixel":
        x[place] = 1e6
    elif kind == "star":
        x[place] = 1e8
    elif kind == "mixed":
        x[rng.random(shape) < 0.01] *= 10.0 ** rng.uniform(-7, 7)
    elif kind == "halves":
        x[..., : cell[-1]] *= 1e8
    elif kind == "channels":
        x *= 10.0 ** rng.uniform(-9, 9, (1, shape[1], *[1] * len(cell)))
    elif kind == "samples":
        x *= 10.0 ** rng.uniform(-12, 12, (shape[0], *[1] * (len(shape) - 1)))
    elif kind == "empty":
        x[rng.random(shape) < 0.999] = 0
    elif kind == "dead channel":
        x[:, c] = 0
    return x.astype(dtype)


def worst(got: np.ndarray, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, g: Geometry) -> float:
    """The largest error of an output, in parts of what is promised for it."""
    plain = replace(g, activation=None)
    want = convolve(x, w, bias, plain)
    if g.activation is not None:
        want = np.maximum(want, 0)  # relu, which makes no error larger
    wide = [None if a is None else np.abs(a.astype(np.float64)) for a in (x, w, bias)]
    size = convolve(*wide, plain)
    terms = g.in_channels // g.groups * math.prod(g.kernel)
    promised = (terms + 2) * UNIT[str(x.dtype)] * size
    if x.dtype == np.float64:
        promised *= 2  # the reference is no wider
    error = np.abs(got.astype(np.float64) - want)
    assert (error[promised == 0] == 0).all()
    return float((error / np.where(promised > 0, promised, 1)).max())


@st.composite
def large_kernels(draw):
    """Maps and kernels that the Fourier algorithm takes."""
    dtype = draw(st.sampled_from(["float32", "float32", "float64"]))
    least = 25 if dtype == "float64" else 11
    k = draw(st.tuples(st.integers(least, 32), st.integers(least, 32)))
    extents = [draw(st.integers(e + 5, 90)) for e in k]
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = field(draw(st.sampled_from(FIELDS)), rng, (2, groups * per_group, *extents), dtype)
    shape = (groups, per_group, *k)
    kind = draw(st.sampled_from(["normal", "moffat", "disk"]))
    rows, columns = np.mgrid[: k[0], : k[1]]
    radius = np.hypot(rows - k[0] // 2, columns - k[1] // 2)
    w = {
        "normal": rng.standard_normal(shape),
        "moffat": np.broadcast_to((1 + radius**2 / 9) ** -2.5, shape),
        "disk": np.broadcast_to((radius <= min(k) // 2).astype(float), shape),
    }[kind].astype(dtype)
    bias = rng.standard_normal(groups).astype(dtype) if draw(st.booleans()) else None
    return ConvSpec(padding=draw(st.sampled_from(["same", "valid", 3])), groups=groups), x, w, bias


@st.composite
def wide_groups(draw):
    """Maps, and kernels of 3×3 and 5×5, that Winograd's algorithm takes."""
    extent = draw(st.sampled_from([3, 5]))
    least = FEWEST[extent]
    groups, channels, filters = draw(st.integers(1, 2)), draw(st.integers(least, 70)), draw(st.integers(least, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    extents = [draw(st.integers(12, 40)) for _ in range(2)]
    x = field(draw(st.sampled_from(FIELDS)), rng, (2, groups * channels, *extents), "float32")
    w = rng.standard_normal((groups * filters, channels, extent, extent)).astype("float32")
    bias = rng.standard_normal(len(w)).astype("float32") if draw(st.booleans()) else None
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    activation = draw(st.sampled_from([None, "relu"]))
    spec = ConvSpec(padding=draw(st.integers(0, 3)), dilation=dilation, groups=groups, activation=activation)
    return spec, x, w, bias


def run(algorithm, spec, x, w, bias, resident) -> tuple[np.ndarray, Geometry]:
    problem = Problem(resolve(spec, x.shape, w.shape), types_of(x.dtype, w.dtype))
    if not algorithm.supports(problem) or (algorithm.name == "separable" and not algorithm.accepts(problem, w)):
        reject()
    y = np.full(problem.geometry.output_shape, 77, x.dtype)
    algorithm.prepare(problem, w, bias, resident=resident).run(x, y)
    return y, problem.geometry


def keeps(name, case, resident):
    _, x, w, bias = case
    y, g = run(ALGORITHMS[name], *case, resident)
    assert worst(y, x, w, bias, g) <= 1


@settings(max_examples=40)
@given(case=large_kernels(), resident=st.booleans())
def test_fourier_keeps_the_bound_at_every_output(case, resident):
    keeps("fft", case, resident)


@pytest.mark.slow
@settings(max_examples=600)
@given(case=large_kernels(), resident=st.booleans())
def test_fourier_at_length(case, resident):
    keeps("fft", case, resident)


@pytest.mark.parametrize("star", [1.0, 1e4, 1e6])
def test_a_star_on_a_dim_sky_is_transformed_and_positive(star, monkeypatch):
    monkeypatch.setattr("groupconv_worker.cpu.algorithms.fft.summed", lambda *_: pytest.fail("summed"))
    rows, columns = np.mgrid[-7:8, -7:8]
    w = ((1 + (rows**2 + columns**2) / 9) ** -2.5).astype("float32")[None, None]
    x = field("normal", np.random.default_rng(0), (1, 1, 300, 280), "float32")
    x = np.abs(x) / 100 + np.float32(0.01)
    x[0, 0, 150, 140] = star
    y, g = run(ALGORITHMS["fft"], ConvSpec(padding="same"), x, w, None, False)
    assert (y > 0).all()
    assert worst(y, x, w, None, g) <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_that_a_transform_would_overflow_or_lose(dtype):
    top = float(np.finfo(dtype).max)
    rng = np.random.default_rng(1)
    x, w = rng.random((1, 1, 60, 60)), rng.random((1, 1, 25, 25))
    for scale in (top / 1e3, top / 1e30, 1e20 / top):
        scaled = (x * scale).astype(dtype)
        y, g = run(ALGORITHMS["fft"], ConvSpec(padding="same"), scaled, w.astype(dtype), None, False)
        assert np.isfinite(y).all()
        assert worst(y / power_of_two(scale, dtype), scaled / power_of_two(scale, dtype), w.astype(dtype), None, g) <= 2


def power_of_two(scale: float, dtype: str) -> np.ndarray:
    """A power of two near the scale: to divide by it rounds nothing."""
    return np.ldexp(np.ones((), dtype), int(np.log2(scale)))


@settings(max_examples=12)
@given(case=wide_groups(), resident=st.booleans())
def test_winograd_keeps_the_bound_for_dense_filters(case, resident):
    keeps("winograd", case, resident)


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n not in ("fft", "winograd", "cells")])
@settings(max_examples=12)
@given(data=st.data(), kind=st.sampled_from(FIELDS), resident=st.booleans())
def test_every_other_algorithm_keeps_the_bound(name, data, kind, resident):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    groups, per_group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    k = data.draw(st.sampled_from([1, 3, 7]))  # each is compiled, as is each width
    if name == "separable":
        groups, per_group, k = groups * per_group, 1, data.draw(st.sampled_from([5, 9]))
    x = field(kind, rng, (2, groups * per_group, 20, data.draw(st.sampled_from([10, 23, 40]))), "float32")
    w = rng.standard_normal((groups * 2, per_group, k, k))
    w = (w[..., :1] * w[..., :1, :] if name == "separable" else w).astype("float32")
    spec = ConvSpec(padding=k // 2, stride=data.draw(st.integers(1, 2)), groups=groups)
    y, g = run(ALGORITHMS[name], spec, x, w, None, resident)
    assert worst(y, x, w, None, g) <= 1


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(FIELDS), channels=st.integers(1, 200), k=st.integers(1, 4))
def test_cells_keep_the_bound(seed, kind, channels, k):
    rng = np.random.default_rng(seed)
    x = field(kind, rng, (2, channels, 2, 3), "float32")
    w = rng.standard_normal((channels, 64, k, k)).astype("float32")
    y, g = run(ALGORITHMS["cells"], ConvSpec(transposed=True, stride=2), x, w, None, False)
    assert worst(y, x, w, None, g) <= 1


@pytest.mark.parametrize("engine", ["cpu", pytest.param("cuda", marks=needs_compiler)])
@pytest.mark.parametrize("kind", FIELDS)
def test_engines_choose_algorithms_that_keep_it(engine, kind):
    rng = np.random.default_rng(7)
    shapes = [
        ((1, 2, 40, 44), (2, 1, 15, 15), 2),
        ((1, 32, 20, 20), (32, 32, 3, 3), 1),
        ((1, 2, 33, 60), (4, 1, 3, 3), 2),
    ]
    for resident in (False, True):
        for x_shape, w_shape, groups in shapes:
            x, w = field(kind, rng, x_shape, "float32"), rng.standard_normal(w_shape).astype("float32")
            problem = Problem(
                resolve(ConvSpec(padding="same", groups=groups), x.shape, w.shape), types_of(x.dtype, w.dtype)
            )
            y = np.full(problem.geometry.output_shape, 77, x.dtype)
            if engine == "cuda":
                with emulated_engine(with_cudnn=True) as cuda:
                    prepared = cuda.prepare(problem, w, resident=resident)
                    prepared.run(x, y)
            else:
                cpu = CpuEngine(threads=1)
                prepared = cpu.prepare(problem, w, resident=resident)
                prepared.run(x, y)
                cpu.close()
            assert worst(y, x, w, None, problem.geometry) <= 1, prepared.algorithm


@settings(max_examples=10)
@given(data=st.data(), dtypes=st.sampled_from([("int32", "int32"), ("int8", "uint8"), ("uint8", "int32")]))
def test_integers_are_exact_in_every_algorithm_modulo_2_32(data, dtypes):
    """Values of the whole range, so that sums wrap."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    groups, channels, k = (data.draw(st.sampled_from(some)) for some in ((1, 2), (1, 2, 16), (1, 3)))
    shapes = (2, groups * channels, 12, data.draw(st.sampled_from([7, 30]))), (groups * 3, channels, k, k)
    x, w = (
        rng.integers(np.iinfo(d).min, np.iinfo(d).max, s, d, endpoint=True) for s, d in zip(shapes, dtypes, strict=True)
    )
    spec = ConvSpec(padding=k // 2, groups=groups)
    problem = Problem(resolve(spec, x.shape, w.shape), types_of(x.dtype, w.dtype))
    want = convolve(x, w, None, problem.geometry).astype(np.int32)
    taken = [a for a in ALGORITHMS.values() if a.supports(problem)]
    assert {"gemm"} <= {a.name for a in taken}
    for algorithm in taken:
        y = np.full(problem.geometry.output_shape, 77, np.int32)
        algorithm.prepare(problem, w, None, resident=True).run(x, y)
        np.testing.assert_array_equal(y, want, err_msg=algorithm.name)
