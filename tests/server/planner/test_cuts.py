"""Ranges of an axis: complete, in proportion to shares."""

from hypothesis import assume, given
from hypothesis import strategies as st

from groupconv_server.planner.cuts import split, split_axis
from groupconv_server.planner.halo import axis_of
from strategies import Case, cases


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


@given(case=cases(rank=1, transposed=True, spec_activation=False), parts=st.integers(1, 5))
def test_transposed_axes_are_cut_where_an_input_begins(case: Case, parts):
    axis = axis_of(case.geometry, 0)
    ranges = split_axis(axis, [1.0] * parts)
    assume(ranges is not None)
    assert [i for r in ranges for i in range(r.start, r.stop)] == list(range(axis.output))
    assert all((r.start + axis.padding[0]) % axis.stride == 0 for r in ranges[1:])
