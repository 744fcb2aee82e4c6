"""The cells that a range of outputs reads, against a count of the windows."""

import itertools

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.plan import Range
from groupconv_server.planner import Cut, Planner
from groupconv_server.planner.halo import Axis, axis_of, part
from groupconv_worker.contract import Problem
from strategies import Case, cases

WORKERS = tuple(f"local-{i}" for i in range(16))


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


def test_rows_of_a_3x3_share_two_rows():
    g = resolve(ConvSpec(padding=1), (1, 4, 8, 8), (4, 4, 3, 3))
    f32 = np.dtype("float32")
    planned = Planner().forced((Problem(g, types_of(f32, f32)),), WORKERS, [(1, Cut(space=(4, 1)))])
    shards = planned[0].plans[0].shards
    assert [str(s.input[2]) for s in shards] == ["0:3", "1:5", "3:7", "5:8"]
    assert sum(s.bytes_in for s in shards) == (8 + 3 * 2) * 4 * 8 * 4 + 4 * 4 * 4 * 9 * 4
