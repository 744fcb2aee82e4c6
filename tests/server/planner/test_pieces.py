"""Cuts of any convolution, merged, equal the whole."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv import ConvSpec, Step, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors import create_executor
from groupconv_server.planner import Cut, Planner, Rates, Statistics
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from oracle import bound, check
from strategies import FLOATS, Case, cases

WORKERS = tuple(f"local-{i}" for i in range(16))
PAIRS = tuple((f, f) for f in FLOATS) + (("uint8", "int8"), ("int8", "int32"), ("int32", "int32"), ("uint8", "float32"))


def run(coordinator, planned, x, steps):
    """The result of steps under a given plan."""
    return coordinator.run_plan(planned, x, coordinator.compile(x.shape, x.dtype, steps))


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


@settings(max_examples=400)
@given(case=cases(dtypes=PAIRS, max_groups=6, max_batch=4), data=st.data(), speeds=SPEEDS)
def test_every_cut_and_product_merges_to_the_unsplit_result_bit_for_bit(coordinator, case: Case, data, speeds):
    problem = Problem(case.geometry, case.types)
    cut = legal(data.draw(cuts(case.geometry.rank)), problem)
    planned = uneven(speeds).forced((problem,), WORKERS, [(1, cut)])
    assume(planned is not None)
    assert len(planned[0].shards) == cut.parts <= 16
    outcome = run(coordinator, planned, case.x, [Step(case.weight, case.bias, case.spec)])
    whole = reference.convolve(case.x, case.weight, case.bias, case.geometry).astype(case.types.output)
    np.testing.assert_array_equal(outcome.output, whole)


@settings(max_examples=200)
@given(case=cases(dtypes=PAIRS, max_groups=3, max_batch=2), data=st.data())
def test_a_cut_of_input_channels_sums_to_the_unsplit_result(coordinator, case: Case, data):
    problem = Problem(case.geometry, case.types)
    cut = legal(data.draw(cuts(case.geometry.rank, channel=True)), problem)
    assume(cut.channel > 1)
    planned = Planner().forced((problem,), WORKERS, [(1, cut)])
    assume(planned is not None)
    outcome = run(coordinator, planned, case.x, [Step(case.weight, case.bias, case.spec)])
    whole = reference.convolve(case.x, case.weight, case.bias, case.geometry)
    assert {s.partial for s in planned[0].plans[0].shards} == {True}
    if case.types.output.kind == "i":
        np.testing.assert_array_equal(outcome.output, whole.astype(np.int32))
        return

    error = np.abs(outcome.output.astype(np.float64) - whole)
    assert (error <= bound(case)).all()


def test_partial_sums_of_float16_travel_as_float32(coordinator):
    x = np.full((1, 64, 4), 60.0, np.float16)
    w = np.full((1, 64, 1), 30.0, np.float16)
    w[0, 32:] *= -1  # each half of the sum is beyond float16, their sum is 0
    g = resolve(ConvSpec(), x.shape, w.shape)
    problem = Problem(g, types_of(x.dtype, w.dtype))
    planned = Planner().forced((problem,), WORKERS, [(1, Cut(channel=2))])
    np.testing.assert_array_equal(run(coordinator, planned, x, [Step(w)]).output, np.zeros((1, 1, 4), np.float16))


@pytest.fixture(scope="module")
def on_cpus():
    executor = create_executor("local", workers=16, threads=1, engine="cpu")
    yield Coordinator(executor)
    executor.close()


@settings(max_examples=60)
@given(case=cases(dtypes=PAIRS, max_groups=4, max_batch=3), data=st.data())
def test_on_the_cpu_engine_every_cut_stays_within_the_error_of_a_sum(on_cpus, case: Case, data):
    problem = Problem(case.geometry, case.types)
    cut = legal(data.draw(cuts(case.geometry.rank, channel=True)), problem)
    planned = Planner().forced((problem,), WORKERS, [(1, cut)])
    assume(planned is not None)
    check(run(on_cpus, planned, case.x, [Step(case.weight, case.bias, case.spec)]).output, case)
