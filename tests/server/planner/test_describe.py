"""The numbers of a plan's shards."""

import itertools

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv.convolution.plan import Range
from groupconv_server.planner import Cut, Planner, Rates, Statistics
from groupconv_server.planner.halo import Axis, axis_of
from groupconv_worker.contract import Problem
from strategies import Case, cases

WORKERS = tuple(f"local-{i}" for i in range(16))


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
