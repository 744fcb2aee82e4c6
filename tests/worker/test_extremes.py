"""Extreme parameters in few bytes: planning and preparing cost what the description costs, not the stride."""

import itertools
import tracemalloc

import numpy as np
import pytest

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.geometry import Geometry
from groupconv_server.planner import Planner
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.algorithms.filters import tap_order
from groupconv_worker.cpu.algorithms.plane import MOST_PHASES, phases
from groupconv_worker.cuda.arguments import phases_of
from groupconv_worker.engines import create_engine

MILLION = 10**6

EXTREMES = {
    "stride": (ConvSpec(transposed=True, stride=MILLION), (1, 1, 2), (1, 1, 1)),
    "stride, several taps": (ConvSpec(transposed=True, stride=MILLION, padding=7), (1, 2, 3), (2, 2, 5)),
    "kernel = stride": (ConvSpec(transposed=True, stride=4000), (1, 1, 2), (1, 1, 4000)),
    "kernel = stride, two axes": (ConvSpec(transposed=True, stride=60), (1, 2, 2, 2), (2, 3, 60, 60)),
    "kernel = stride, flipped": (ConvSpec(transposed=True, stride=999, flip_kernel=True), (1, 1, 2), (1, 1, 999)),
    "crop": (ConvSpec(transposed=True, stride=10**9, padding=5 * 10**8), (1, 1, 2), (1, 1, 3)),
    "crop of a dilation": (ConvSpec(transposed=True, dilation=10**8, padding=5 * 10**7), (1, 1, 5), (1, 1, 2)),
    "padding": (ConvSpec(stride=10**8, padding=10**8), (1, 1, 1), (1, 1, 1)),
    "padding, two axes": (ConvSpec(stride=10**4, padding=10**4), (1, 2, 2, 2), (3, 2, 2, 2)),
    "replicas": (ConvSpec(stride=10**8, padding=10**8, padding_mode="replicate"), (1, 1, 2), (1, 1, 3)),
    "dilation": (ConvSpec(dilation=10**8, padding=10**8), (1, 1, 5), (1, 1, 3)),
    "dilation, three axes": (ConvSpec(dilation=500, padding=500), (1, 1, 3, 3, 3), (1, 1, 3, 3, 3)),
    "circle": (ConvSpec(padding=3, padding_mode="circular", dilation=3), (1, 1, 3), (1, 1, 3)),
}


def problem_of(spec: ConvSpec, x: tuple[int, ...], w: tuple[int, ...], dtype: str = "float32") -> Problem:
    return Problem(resolve(spec, x, w), types_of(DTYPES[dtype], DTYPES[dtype]))


def by_definition(x: np.ndarray, w: np.ndarray, g: Geometry) -> np.ndarray:
    """Every input times every weight, one after another; for one group of one sample."""
    y = np.zeros(g.output_shape)
    w = np.flip(w, tuple(range(2, w.ndim))) if g.flip_kernel else w
    for tap in itertools.product(*map(range, g.kernel)):
        at = [t * d - lo for t, d, (lo, _) in zip(tap, g.dilation, g.padding, strict=True)]
        for cell in itertools.product(*map(range, g.input if g.transposed else g.output)):
            there = [c * s + a for c, s, a in zip(cell, g.stride, at, strict=True)]
            if g.transposed:
                if all(0 <= t < o for t, o in zip(there, g.output, strict=True)):
                    y[0, :, *there] += w[:, :, *tap].T @ x[0, :, *cell]
                continue
            if g.padding_mode == "replicate":
                there = [min(max(t, 0), h - 1) for t, h in zip(there, g.input, strict=True)]
            if g.padding_mode == "circular":
                there = [t % h for t, h in zip(there, g.input, strict=True)]
            if all(0 <= t < h for t, h in zip(there, g.input, strict=True)):
                y[0, :, *cell] += w[:, :, *tap] @ x[0, :, *there]
    return y


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("name", EXTREMES)
def test_an_extreme_parameter_costs_no_more_memory_than_what_comes_and_goes(name, dtype, engine):
    problem = problem_of(*EXTREMES[name], dtype)
    rng, g = np.random.default_rng(0), problem.geometry
    x, w = (rng.integers(-4, 5, shape).astype(dtype) for shape in (g.input_shape, g.weight_shape))
    y, made = np.empty(g.output_shape, dtype), create_engine(engine)
    tracemalloc.start()
    made.prepare(problem, w).run(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    made.close()
    assert peak < 8 * 2**20 + 20 * (x.nbytes + w.nbytes + y.nbytes)
    np.testing.assert_array_equal(y, by_definition(x, w, g))


@pytest.mark.parametrize("stride", [10**3, 10**6, 10**9])
def test_phases_cost_what_there_are_of_them(stride):
    for kernel, outputs in ((1, 10), (1000, 10), (1000, 10**9)):
        g = Geometry(1, 1, 1, 1, (2,), (kernel,), (outputs,), (stride,), ((0, 0),), (1,), (0,), transposed=True)
        tracemalloc.start()
        found = phases(g)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(found) == (10 if kernel >= outputs else 0)
        assert peak < 100_000


def test_phases_are_the_taps_that_meet_an_output():
    for s, d, kernel, low in itertools.product((1, 2, 3, 4, 6, 8), (1, 2, 3, 4), (1, 2, 3, 7), (0, 1, 5)):
        outputs = 40
        g = Geometry(1, 1, 1, 1, (9,), (kernel,), (outputs,), (s,), ((low, 0),), (d,), (0,), transposed=True)
        wanted = [[k for k in reversed(range(kernel)) if (f + low - k * d) % s == 0] for f in range(s)]
        found = phases(g)
        if not all(wanted):
            assert not found
            continue
        assert [list(p.taps[1]) for p in found] == wanted
        for f, phase in enumerate(found):
            first, plane = phase.taps[1][0], phase.plane
            assert -plane.low[1] == (f + low - first * d) // s
            steps = {(f + low - k * d) // s + plane.low[1] for k in phase.taps[1]}
            assert steps == {i * plane.dilation[1] for i in range(len(phase.taps[1]))}


def test_more_phases_than_are_worth_a_stage_each_are_not_made():
    g = resolve(ConvSpec(transposed=True, stride=MOST_PHASES + 1), (1, 1, 2), (1, 1, MOST_PHASES + 1))
    assert phases(g) == ()
    assert tap_order(g).tolist() == list(range(MOST_PHASES + 1))


def test_phases_on_a_device_cost_no_python_for_each():
    """Millions of phases are arrays, not tuples: 48 bytes for each would be 48 MB."""
    g = resolve(ConvSpec(transposed=True, stride=MILLION), (1, 1, 2), (1, 1, 1))
    tracemalloc.start()
    found = phases_of(g)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.starts) == MILLION + 1
    assert len(found.taps) == 1
    assert peak < 30 * MILLION


@pytest.mark.parametrize(
    "problem",
    [
        *(problem_of(*extreme) for extreme in EXTREMES.values()),
        problem_of(ConvSpec(groups=2**27), (1, 2**27, 1), (2**27, 1, 1), "int8"),
        problem_of(ConvSpec(), (2**27, 1, 1), (1, 1, 1), "int8"),
        problem_of(ConvSpec(), (1, 1, 2**27), (1, 1, 1), "int8"),
        problem_of(ConvSpec(transposed=True, stride=2**26), (1, 1, 2), (1, 1, 2**26), "int8"),
    ],
    ids=lambda problem: problem.geometry.variant(),
)
def test_planning_costs_no_more_for_extreme_extents(problem):
    workers = tuple(f"worker-{i}" for i in range(4))
    Planner().plan((problem_of(ConvSpec(), (1, 1, 8), (1, 1, 3)),), workers)  # imports, tables of candidates
    tracemalloc.start()
    (chain,) = Planner().plan((problem,), workers, reordering=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chain.shards
    assert peak < 8 * 2**20
