"""Each algorithm of the cpu engine against the float64 reference, on the problems it says it supports."""

import numpy as np
import pytest
import scipy.special
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.algorithms.direct import Direct
from groupconv_worker.cpu.algorithms.fft import Fft
from groupconv_worker.cpu.algorithms.gemm import Gemm
from groupconv_worker.cpu.algorithms.grouped import Grouped, blocks, fold
from groupconv_worker.cpu.algorithms.onnx import OnnxRuntime, parts
from groupconv_worker.cpu.algorithms.plane import phases, zero_padded
from groupconv_worker.cpu.algorithms.separable import Separable, rank_one
from groupconv_worker.cpu.algorithms.winograd import Winograd
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.reference import convolve
from guards import check_in_bounds
from oracle import check, run
from strategies import cases

PAIRS = (
    ("float32", "float32"),
    ("float64", "float64"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("int8", "uint8"),
    ("uint8", "float32"),
)
TEAM, BUFFERS = Team(2), BufferPool()
EXACT = {a.name: a for a in (Grouped(TEAM, BUFFERS), Direct(TEAM, BUFFERS), OnnxRuntime(TEAM))}
OF_SAMPLES = [*EXACT.values(), Separable(TEAM, BUFFERS), Winograd(TEAM, BUFFERS)]


def problem_of(spec: ConvSpec, x: np.ndarray, w: np.ndarray) -> Problem:
    return Problem(resolve(spec, x.shape, w.shape), types_of(x.dtype, w.dtype))


def answer(algorithm, problem: Problem, x, w, bias=None, *, resident: bool = True) -> np.ndarray:
    out = np.full(problem.geometry.with_batch(len(x)).output_shape, 77, problem.types.output)
    algorithm.prepare(problem, w, bias, resident=resident).run(x, out)
    return out


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=16)
@given(case=cases(dtypes=PAIRS), resident=st.booleans())
def test_exact_algorithms(name, case, resident):
    algorithm = EXACT[name]
    assume(algorithm.supports(Problem(case.geometry, case.types)))
    check(run(algorithm, case, resident=resident), case)


@pytest.mark.parametrize("algorithm", OF_SAMPLES, ids=lambda a: a.name)
def test_samples_that_lie_apart(algorithm):
    """As a cut by groups leaves them: each contiguous, any distance from one to the next."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 32, 20, 20), dtype=np.float32)[::-1, 1]
    spec, w = ConvSpec(padding=1, groups=2), rng.standard_normal((32, 16, 3, 3), dtype=np.float32)
    if isinstance(algorithm, Separable):
        column, row = rng.standard_normal((2, 32, 5), dtype=np.float32)
        spec, w = ConvSpec(padding=2, groups=32), (column[:, :, None] * row[:, None])[:, None]
    problem = problem_of(spec, x, w)
    room = np.full((5, 2, *problem.geometry.output_shape[1:]), 77, np.float32)
    algorithm.prepare(problem, w, None, resident=True).run(x, room[:, 0])
    np.testing.assert_allclose(room[:, 0], convolve(x, w, None, problem.geometry), atol=1e-3)
    assert (room[:, 1] == 77).all()


@pytest.mark.parametrize(
    ("spec", "x_shape", "w_shape"),
    [
        (ConvSpec(padding=1), (1, 8, 6, 7), (200, 8, 3, 3)),
        (ConvSpec(padding=1, groups=3), (1, 24, 6, 7), (216, 8, 3, 3)),
        (ConvSpec(padding=1, groups=5), (1, 40, 6, 7), (120, 8, 3, 3)),
        (ConvSpec(padding=1, stride=2, groups=2, transposed=True), (1, 16, 4, 4), (16, 100, 4, 4)),
    ],
)
def test_filters_of_one_shot_kernels_pass_in_chunks(monkeypatch, spec, x_shape, w_shape):
    x, w = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in (x_shape, w_shape))
    problem = problem_of(spec, x, w)
    bias = np.arange(problem.geometry.out_channels, dtype=np.float32)
    whole = answer(Direct(TEAM, BUFFERS), problem, x, w, bias, resident=False)
    np.testing.assert_allclose(whole, convolve(x, w, bias, problem.geometry), atol=1e-3)
    monkeypatch.setattr("groupconv_worker.cpu.algorithms.direct.CHUNK", 1)
    np.testing.assert_array_equal(answer(Direct(TEAM, BUFFERS), problem, x, w, bias, resident=False), whole)


def test_tiles_of_one_shot_winograd_pass_in_two_chunks(monkeypatch):
    x, w = (np.random.default_rng(0).standard_normal(s, np.float32) for s in ((1, 16, 16, 16), (32, 16, 3, 3)))
    monkeypatch.setattr("groupconv_worker.cpu.algorithms.winograd.MOST_CHUNK", 1)
    problem = problem_of(ConvSpec(padding=1), x, w)
    got = answer(Winograd(TEAM, BUFFERS), problem, x, w, resident=False)
    np.testing.assert_allclose(got, convolve(x, w, None, problem.geometry), atol=1e-3)


def test_winograd_does_not_pay_where_taps_see_much_padding():
    x, w = np.zeros((1, 32, 33, 33), np.float32), np.zeros((32, 32, 3, 3), np.float32)
    problems = [problem_of(ConvSpec(padding=d, dilation=d), x, w) for d in (6, 12)]
    assert [OF_SAMPLES[-1].pays_once(problem) for problem in problems] == [True, False]


@settings(max_examples=12)
@given(data=st.data(), width=st.integers(1, 80), height=st.integers(1, 9), step=st.integers(1, 2))
def test_every_block_on_wide_rows(data, width, height, step):
    """Rows of several vectors: inner vectors without masks, a last block that overlaps, phases of unequal width."""
    transposed = data.draw(st.booleans())
    spec = ConvSpec(groups=2, padding=data.draw(st.integers(0, 1)), stride=step, transposed=transposed)
    rng = np.random.default_rng(width)
    x, w = rng.standard_normal((1, 4, height + 2, width + 2), np.float32), rng.standard_normal((4, 2, 3, 3), np.float32)
    problem = problem_of(spec, x, w)
    plane = fold(phases(problem.geometry)[0].plane)
    block = data.draw(st.sampled_from(blocks(plane, 16)))
    np.testing.assert_allclose(
        answer(Grouped(TEAM, BUFFERS, block), problem, x, w), convolve(x, w, None, problem.geometry), atol=1e-4
    )


@pytest.mark.parametrize("groups", [1, 2])
@settings(max_examples=8)
@given(
    extents=st.tuples(st.integers(10, 30), st.integers(10, 30)),
    channels=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    padding=st.integers(0, 2),
    dilation=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    mode=st.sampled_from(["zeros", "reflect"]),
    activation=st.sampled_from([None, "relu", "gelu"]),
)
def test_winograd_within_its_bound(groups, extents, channels, padding, dilation, mode, activation):
    rng = np.random.default_rng(sum(extents))
    x = rng.standard_normal((2, channels[0] * groups, *extents), np.float32)
    w = rng.standard_normal((channels[1] * groups, channels[0], 3, 3), np.float32)
    bias = rng.standard_normal(len(w), np.float32)
    spec = ConvSpec(padding=padding, dilation=dilation, groups=groups, padding_mode=mode, activation=activation)
    problem = problem_of(spec, x, w)
    algorithm = Winograd(TEAM, BUFFERS)
    assume(algorithm.supports(problem))
    # the tile of an output holds 36 values of each channel; both norms are of random data, so of their counts
    bound = 40 * 2.0**-24 * np.sqrt(9 * channels[0]) * np.sqrt(36 * channels[0])
    want = convolve(x, w, bias, problem.geometry)
    assert np.abs(answer(algorithm, problem, x, w, bias) - want).max() <= bound


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize(
    "algorithm",
    [Winograd(TEAM, BUFFERS), Fft(TEAM), Gemm(np, scipy.special.erf, team=TEAM)],
    ids=lambda a: a.name,
)
def test_what_is_not_finite_is_not_spread_nor_warned_of(algorithm, value):
    rng = np.random.default_rng(1)
    channels, groups, k = (16, 1, 3) if algorithm.name == "winograd" else (2, 2, 13)
    x = rng.standard_normal((1, channels, 40, 40), np.float32)
    w = rng.standard_normal((channels, channels // groups, k, k), np.float32)
    x[0, 0, 7, 9] = value
    problem = problem_of(ConvSpec(padding=k // 2, groups=groups), x, w)
    assert algorithm.supports(problem)
    got = answer(algorithm, problem, x, w)  # a warning, in whichever thread, would be an error here
    with np.errstate(all="ignore"):
        want = convolve(x, w, None, problem.geometry).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    calm = np.isfinite(want) & (np.abs(want) < 1e30)
    np.testing.assert_allclose(got[calm], want[calm], atol=1e-4)


@settings(max_examples=5)
@given(
    k=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 4),
)
def test_rank_one_kernels_run_as_two_passes(k, stride, dilation, padding):
    rng = np.random.default_rng(k[1])
    x = rng.standard_normal((1, 3, 30, 41), np.float32)
    u, v = rng.standard_normal((2, 6, max(k)))
    w = np.einsum("mk,ml->mkl", u[:, : k[0]], v[:, : k[1]])[:, None].astype(np.float32)
    bias = rng.standard_normal(6, np.float32)
    problem = problem_of(ConvSpec(stride=stride, dilation=dilation, padding=padding, groups=3), x, w)
    engine = CpuEngine(threads=1)
    prepared = engine.prepare(problem, w, bias)
    assert prepared.algorithm == "separable"
    out = np.empty(problem.geometry.output_shape, np.float32)
    prepared.run(x, out)
    np.testing.assert_allclose(out, convolve(x, w, bias, problem.geometry), atol=1e-4)


def test_rank_is_judged_by_rounding_or_by_the_callers_tolerance():
    w = np.outer([3.0, 4.0, 5.0], [1.0, 2.0, 3.0]).astype(np.float32)[None]
    bent = w.copy()
    bent[0, 2, 2] *= 1.001
    assert rank_one(w) is not None
    assert rank_one(bent) is None
    assert rank_one(bent, tolerance=0.01) is not None
    assert rank_one(np.zeros((1, 3, 3), np.float32)) is None
    problem = problem_of(ConvSpec(groups=2), np.zeros((1, 2, 9, 9), np.float32), np.zeros((2, 1, 5, 5), np.float32))
    with pytest.raises(ValueError, match="not of rank 1"):
        Separable(TEAM, BUFFERS).prepare(
            problem, np.eye(5, dtype=np.float32) * np.ones((2, 1, 1, 1)), None, resident=True
        )


@settings(max_examples=100)
@given(case=cases(transposed=True))
def test_phases_make_every_output_once(case):
    found = phases(zero_padded(case.geometry))
    assume(found)
    rows = case.geometry.output if case.geometry.rank == 2 else (1, *case.geometry.output)
    made = np.zeros(rows, int)
    for phase in found:
        made[phase.start[0] :: phase.step[0], phase.start[1] :: phase.step[1]] += 1
    assert (made == 1).all()


@settings(max_examples=100)
@given(case=cases(), count=st.integers(1, 5))
def test_parts_cover_the_channels_between_groups(case, count):
    g = case.geometry
    cuts = parts(g, count)
    assert [c for start, stop in cuts for c in range(start, stop)] == list(range(g.out_channels))
    assert g.groups == 1 or all(start % (g.out_channels // g.groups) == 0 for start, _ in cuts)


def test_one_shot_sessions_are_bounded(monkeypatch):
    from groupconv_worker.cpu.algorithms import onnx

    monkeypatch.setattr(onnx, "SESSIONS", 2)
    runtime = OnnxRuntime(Team(1))
    x = np.ones((1, 1, 9), np.float32)
    for k in (1, 2, 3, 4):
        w = np.ones((1, 1, k), np.float32)
        got = answer(runtime, problem_of(ConvSpec(), x, w), x, w, resident=False)
        np.testing.assert_array_equal(got, np.full((1, 1, 10 - k), k))
    assert len(runtime._sessions) == 2


@settings(max_examples=8)
@given(case=cases(transposed=True))
def test_direct_writes_every_phase(case):
    assume(EXACT["direct"].supports(Problem(case.geometry, case.types)))
    check(run(EXACT["direct"], case), case)


def test_taps_that_see_only_padding_are_skipped_unless_a_weight_is_not_finite():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 16, 33, 33), np.float32), rng.standard_normal((16, 16, 3, 3), np.float32)
    problem = problem_of(ConvSpec(padding=12, dilation=12), x, w)
    for weight in (0.5, np.inf):
        w[0, 0, 0, 0] = weight
        got = answer(Direct(TEAM, BUFFERS), problem, x, w)
        with np.errstate(invalid="ignore"):
            want = convolve(x, w, None, problem.geometry)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        finite = np.isfinite(want)
        np.testing.assert_allclose(got[finite], want[finite], atol=1e-4)


SINGLE_TAP_PHASES = [
    ((1, 32, 96), (2,), {"stride": 2}),
    ((1, 32, 30), (2,), {"stride": 2}),
    ((1, 32, 96), (3,), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((1, 32, 96), (3,), {"stride": 2}),
    ((1, 32, 1, 96), (2, 1), {"stride": (2, 1)}),
    ((1, 32, 1, 96), (3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((1, 32, 96), (1,), {"dilation": 3, "padding": 1, "output_padding": 2}),
]


@pytest.mark.parametrize(("shape", "kernel", "options"), SINGLE_TAP_PHASES)
def test_a_phase_of_one_tap_on_one_row_stays_in_its_output(shape, kernel, options):
    """Its row must not be cut as a whole output's may: its cells lie apart."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(shape, np.float32), rng.standard_normal((32, 32, *kernel), np.float32)
    problem = problem_of(ConvSpec(transposed=True, **options), x, w)
    check_in_bounds(Direct(TEAM, BUFFERS), problem, x, w)


@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("algorithm", [Winograd(TEAM, BUFFERS), Fft(TEAM)], ids=lambda a: a.name)
def test_an_activation_is_applied_once_where_a_value_is_not_finite(algorithm, value, kind):
    rng = np.random.default_rng(0)
    k, channels, groups = (3, 16, 1) if algorithm.name == "winograd" else (13, 2, 2)
    x = rng.standard_normal((1, channels, 40, 40), np.float32)
    w = rng.standard_normal((channels, channels // groups, k, k), np.float32)
    x[0, 0, 7, 9] = value
    problem = problem_of(ConvSpec(padding=k // 2, groups=groups, activation=kind), x, w)
    got = answer(algorithm, problem, x, w)
    with np.errstate(all="ignore"):
        want = convolve(x, w, None, problem.geometry)
    finite = np.isfinite(want)
    np.testing.assert_allclose(got[finite], want[finite], atol=1e-3)
