"""Cuts cover the whole, overlap nowhere, carry nothing that is not needed, and merge to the same result."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv import ConvSpec, Step, resolve
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.plan import Range
from groupconv.convolution.steps import geometries
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors import create_executor
from groupconv_server.planner import Cut, Planner, Rates, Statistics
from groupconv_server.planner.cuts import split, split_axis
from groupconv_server.planner.halo import Axis, axis_of, part
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from oracle import bound, check
from strategies import FLOATS, Case, cases

WORKERS = tuple(f"local-{i}" for i in range(16))
PAIRS = tuple((f, f) for f in FLOATS) + (("uint8", "int8"), ("int8", "int32"), ("int32", "int32"), ("uint8", "float32"))


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


@given(st.integers(1, 200), st.lists(st.floats(0.1, 10), min_size=1, max_size=40))
def test_split_is_complete_and_follows_the_shares(extent, shares):
    ranges = split(extent, shares)
    if len(shares) > extent:
        assert ranges is None
        return
    assert [i for r in ranges for i in range(r.start, r.stop)] == list(range(extent))
    assert len(ranges) == len(shares)
    if extent >= 20 * len(shares) * max(shares) / min(shares):
        for r, share in zip(ranges, shares, strict=True):
            assert abs(r.stop - r.start - extent * share / sum(shares)) <= 1


@given(st.integers(1, 200), st.integers(1, 40))
def test_equal_shares_differ_by_one_at_most(extent, parts):
    lengths = [r.stop - r.start for r in split(extent, [1.0] * min(parts, extent))]
    assert max(lengths) - min(lengths) <= 1


@settings(max_examples=400)
@given(case=cases(dtypes=PAIRS, max_groups=6, max_batch=4), data=st.data(), speeds=SPEEDS)
def test_every_cut_and_product_merges_to_the_unsplit_result_bit_for_bit(coordinator, case: Case, data, speeds):
    problem = Problem(case.geometry, case.types)
    cut = legal(data.draw(cuts(case.geometry.rank)), problem)
    planned = uneven(speeds).forced((problem,), WORKERS, [(1, cut)])
    assume(planned is not None)
    assert len(planned[0].shards) == cut.parts <= 16
    outcome = coordinator.run(planned, case.x, [Step(case.weight, case.bias, case.spec)])
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
    outcome = coordinator.run(planned, case.x, [Step(case.weight, case.bias, case.spec)])
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
    np.testing.assert_array_equal(coordinator.run(planned, x, [Step(w)]).output, np.zeros((1, 1, 4), np.float16))


def touched(axis: Axis, outputs: Range) -> set[int]:
    """Input cells from the first window of outputs to the last, window by window, padding resolved by its mode.

    The holes of a dilated window and the cells a stride leaps over belong to it: what travels are ranges.
    """
    reach = axis.dilation * (axis.kernel - 1)
    seen = set()
    for o, k in itertools.product(range(outputs.start, outputs.stop), range(reach + 1)):
        if axis.transposed:
            i, rest = divmod(o + axis.padding[0] - k, axis.stride)
            seen |= {i} if rest == 0 else set()
        else:
            seen.add(o * axis.stride + k - axis.padding[0])
    last = axis.input - 1
    resolve_padding = {
        "zeros": lambda i: None,
        "reflect": lambda i: -i if i < 0 else 2 * last - i,
        "replicate": lambda i: 0 if i < 0 else last,
        "circular": lambda i: i % axis.input,
    }[axis.mode]
    cells = {i if 0 <= i <= last else resolve_padding(i) for i in (range(min(seen), max(seen) + 1) if seen else ())}
    return cells - {None}


@settings(max_examples=500)
@given(case=cases(rank=1, max_batch=1, spec_activation=False), data=st.data())
def test_a_part_holds_what_its_outputs_read_and_no_cell_more(case: Case, data):
    axis = axis_of(case.geometry, 0)
    start = data.draw(st.integers(0, axis.output - 1))
    outputs = Range(start, data.draw(st.integers(start + 1, axis.output)))
    assume(outputs != (0, axis.output))
    found = part(axis, outputs)
    reads = touched(axis, outputs)
    if found is None:
        return
    held = [i % axis.input for i in range(found.input.start, found.input.stop)]
    assert len(set(held)) == len(held), "a cell twice"
    assert set(held) == reads


@settings(max_examples=300)
@given(case=cases(rank=1, max_batch=1, transposed=False, spec_activation=False), data=st.data())
def test_a_part_is_refused_only_where_no_convolution_of_its_own_makes_it(case: Case, data):
    axis = axis_of(case.geometry, 0)
    start = data.draw(st.integers(0, axis.output - 1))
    outputs = Range(start, data.draw(st.integers(start + 1, axis.output)))
    if part(axis, outputs) is not None:
        return
    first, last = start * axis.stride, (outputs.stop - 1) * axis.stride + axis.dilation * (axis.kernel - 1)
    inside = {i - axis.padding[0] for i in range(first, last + 1)} & set(range(axis.input))
    assert not inside or (axis.mode == "reflect" and not touched(axis, outputs) <= inside)


@settings(max_examples=300)
@given(case=cases(max_groups=4, max_batch=3), data=st.data(), speeds=SPEEDS)
def test_the_bytes_of_a_spatial_plan_are_input_and_halos_exactly(case: Case, data, speeds):
    g = case.geometry
    space = tuple(data.draw(st.integers(1, min(4, o))) for o in g.output)
    assume(int(np.prod(space)) <= 16)
    planned = uneven(speeds).forced((Problem(g, case.types),), WORKERS, [(1, Cut(space=space))])
    assume(planned is not None)
    shards = planned[0].plans[0].shards
    axes = [axis_of(g, k) for k in range(g.rank)]
    total = 0
    for shard in shards:
        cells = case.x.shape[0] * case.x.shape[1]
        for axis, outputs in zip(axes, shard.output[2:], strict=True):
            if outputs == (0, axis.output):
                cells *= axis.input  # an axis that is not cut travels as it came
            else:
                cells *= len(touched(axis, outputs))
        total += cells * case.x.itemsize + case.weight.nbytes
    assert sum(s.bytes_in for s in shards) == total
    assert sum(s.bytes_out for s in shards) == np.prod(g.output_shape) * case.types.output.itemsize


def test_rows_of_a_3x3_share_two_rows():
    g = resolve(ConvSpec(padding=1), (1, 4, 8, 8), (4, 4, 3, 3))
    f32 = np.dtype("float32")
    planned = Planner().forced((Problem(g, types_of(f32, f32)),), WORKERS, [(1, Cut(space=(4, 1)))])
    shards = planned[0].plans[0].shards
    assert [str(s.input[2]) for s in shards] == ["0:3", "1:5", "3:7", "5:8"]
    assert sum(s.bytes_in for s in shards) == (8 + 3 * 2) * 4 * 8 * 4 + 4 * 4 * 4 * 9 * 4


@given(case=cases(rank=1, transposed=True, spec_activation=False), parts=st.integers(1, 5))
def test_transposed_axes_are_cut_where_an_input_begins(case: Case, parts):
    axis = axis_of(case.geometry, 0)
    ranges = split_axis(axis, [1.0] * parts)
    assume(ranges is not None)
    assert [i for r in ranges for i in range(r.start, r.stop)] == list(range(axis.output))
    assert all((r.start + axis.padding[0]) % axis.stride == 0 for r in ranges[1:])


@settings(max_examples=300)
@given(case=cases(max_groups=6, max_batch=4), data=st.data())
def test_what_the_shards_of_a_plan_say_adds_up(case: Case, data):
    g = case.geometry
    problem = Problem(g, case.types)
    cut = legal(data.draw(cuts(g.rank)), problem)
    planned = Planner().forced((problem,), WORKERS, [(1, cut)])
    assume(planned is not None)
    plan = planned[0].plans[0]
    written = np.zeros(g.output_shape, int)
    for shard in plan.shards:
        written[tuple(r.slice for r in shard.output)] += 1
    assert (written == 1).all()
    assert len({s.worker for s in plan.shards}) == len(plan.shards)
    if not g.transposed:
        assert sum(s.multiply_adds for s in plan.shards) == g.batch * case.weight.size * np.prod(g.output)


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
    outcome = coordinator.run(planned, x, steps)
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
    np.testing.assert_array_equal(coordinator.run(planned, x, steps).output, unsplit(x, steps))


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
    check(on_cpus.run(planned, case.x, [Step(case.weight, case.bias, case.spec)]).output, case)
