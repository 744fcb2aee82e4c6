"""Plans of several steps, merged, equal the whole."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv import ConvSpec, Step, resolve
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.steps import geometries
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors import create_executor
from groupconv_server.planner import Cut, Planner, Rates, Statistics
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from strategies import cases

WORKERS = tuple(f"local-{i}" for i in range(16))


@pytest.fixture(scope="module")
def coordinator():
    executor = create_executor("local", workers=16, threads=1, engine="reference")
    yield Coordinator(executor)
    executor.close()


@st.composite
def cuts(draw, rank: int, *, channel: bool = False) -> Cut:
    """Parts along every dimension, 16 in all at most."""
    left = 16
    numbers = []
    order = draw(st.permutations(range(4 + rank)))
    for _ in order:
        numbers.append(draw(st.integers(1, min(left, 6))))
        left //= numbers[-1]
    group, batch, filters, channels, *space = (numbers[order.index(k)] for k in range(4 + rank))
    return Cut(group, batch, filters, tuple(space), channels if channel else 1)


def legal(cut: Cut, *problems: Problem) -> Cut:
    """The cut with no more parts than there are, and with groups taken apart where filters or channels are cut."""
    first, last = problems[0].geometry, problems[-1].geometry
    groups = int(np.gcd.reduce([p.geometry.groups for p in problems]))
    within = len(problems) == 1 and (cut.filter > 1 or cut.channel > 1) and groups <= 4
    cut = cut if within else cut._replace(filter=1, channel=1)
    cut = cut._replace(
        group=groups if within else min(cut.group, groups),
        batch=min(cut.batch, first.batch),
        filter=min(cut.filter, last.out_channels // last.groups),
        channel=min(cut.channel, first.in_channels // first.groups),
        space=tuple(min(n, o) for n, o in zip(cut.space, last.output, strict=True)),
    )
    while cut.parts > 16:
        largest = max(range(len(cut.space)), key=lambda k: cut.space[k])
        if cut.space[largest] > 1:
            cut = cut._replace(space=tuple(1 if k == largest else n for k, n in enumerate(cut.space)))
        elif cut.batch > 1:
            cut = cut._replace(batch=1)
        elif cut.channel > 1:
            cut = cut._replace(channel=1)
        else:
            cut = cut._replace(filter=1)
    return cut


def uneven(speeds) -> Planner:
    """A planner of workers with these speeds."""
    statistics = Statistics()
    statistics.calibrated({w: Rates().faster(s) for w, s in zip(WORKERS, speeds, strict=True)})
    return Planner(statistics)


SPEEDS = st.lists(st.sampled_from([1.0, 1.0, 1.0, 2.0, 5.0]), min_size=16, max_size=16)


@st.composite
def sequences(draw):
    """Two or three steps that fit each other, with arrays."""
    first = draw(cases(dtypes=(("float32", "float32"), ("float64", "float64")), max_batch=3))
    steps = [Step(first.weight, first.bias, first.spec)]
    shape, rank, dtype = first.geometry.output_shape, first.geometry.rank, first.types.output
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for _ in range(draw(st.integers(1, 2))):
        channels = shape[1]
        groups = draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0]))
        each = draw(st.integers(1, 2))
        transposed = draw(st.booleans())
        kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
        spec = ConvSpec(
            stride=draw(st.integers(1, 2)),
            padding=draw(st.integers(0, 2)),
            dilation=draw(st.integers(1, 2)),
            groups=groups,
            transposed=transposed,
            padding_mode="zeros"
            if transposed
            else draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
            activation=draw(st.sampled_from([None, "relu", "tanh"])),
        )
        weight = (channels, each, *kernel) if transposed else (groups * each, channels // groups, *kernel)
        try:
            g = resolve(spec, shape, weight)
        except ValueError:
            assume(False)
        assume(np.prod(g.output_shape) <= 20_000)
        bias = rng.standard_normal(g.out_channels).astype(dtype)
        steps.append(Step(rng.standard_normal(weight).astype(dtype), bias, spec))
        shape = g.output_shape
    return first.x, steps


def problems_of(x, steps) -> tuple[Problem, ...]:
    shapes = geometries([s.spec for s in steps], x.shape, [s.kernel.shape for s in steps])
    return tuple(Problem(g, types_of(x.dtype, s.kernel.dtype)) for g, s in zip(shapes, steps, strict=True))


def unsplit(x, steps):
    for problem, step in zip(problems_of(x, steps), steps, strict=True):
        x = reference.convolve(x, step.kernel, step.bias, problem.geometry).astype(problem.types.output)
    return x


@settings(max_examples=300)
@given(sequence=sequences(), data=st.data(), speeds=SPEEDS)
def test_steps_that_share_a_cut_run_without_meeting_bit_for_bit(coordinator, sequence, data, speeds):
    x, steps = sequence
    problems = problems_of(x, steps)
    cut = legal(data.draw(cuts(problems[0].geometry.rank)), *problems)
    planned = uneven(speeds).forced(problems, WORKERS, [(len(steps), cut)])
    assume(planned is not None)
    outcome = coordinator.run_plan(planned, x, coordinator.compile(x.shape, x.dtype, steps))
    np.testing.assert_array_equal(outcome.output, unsplit(x, steps))
    assert [p.joined for p in outcome.report.plan.steps] == [False] + [True] * (len(steps) - 1)
    assert len(outcome.report.steps) == len(steps)


@settings(max_examples=150)
@given(sequence=sequences(), workers=st.integers(1, 16), speeds=SPEEDS)
def test_whatever_the_planner_chooses_is_right(coordinator, sequence, workers, speeds):
    x, steps = sequence
    problems = problems_of(x, steps)
    # slow workers that are close at hand: everything is worth cutting
    statistics = Statistics()
    slow = Rates(multiply_adds=(1e3,) * 5, overhead=(0.0,) * 5, latency=1e-9, dispatch=1e-9)
    statistics.calibrated({w: slow.faster(s) for w, s in zip(WORKERS, speeds, strict=True)})
    planned = Planner(statistics).plan(problems, WORKERS[:workers])
    np.testing.assert_array_equal(
        coordinator.run_plan(planned, x, coordinator.compile(x.shape, x.dtype, steps)).output, unsplit(x, steps)
    )
