"""Cuts cover the whole, overlap nowhere, and carry nothing that is not needed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from groupconv.plan import Range
from groupconv_server.planner import plan_step
from groupconv_server.planner.cuts import pieces, split
from groupconv_worker.engines import reference
from groupconv_worker.engines.base import Problem
from strategies import Case, cases


@given(st.integers(1, 200), st.integers(1, 40))
def test_split_is_even_and_complete(extent, parts):
    ranges = split(extent, parts)
    assert [i for r in ranges for i in range(r.start, r.stop)] == list(range(extent))
    lengths = [r.stop - r.start for r in ranges]
    assert len(lengths) == min(extent, parts)
    assert max(lengths) - min(lengths) <= 1


@settings(max_examples=200)
@given(case=cases(max_groups=6, max_batch=4), groups=st.integers(1, 6), batch=st.integers(1, 4))
def test_merged_pieces_equal_the_whole_bit_for_bit(case: Case, groups: int, batch: int):
    g = case.geometry
    whole = reference.convolve(case.x, case.weight, case.bias, g)
    merged = np.full(whole.shape, np.nan)
    for piece in pieces(g, groups=groups, batch=batch):
        x = case.x[tuple(r.slice for r in piece.input)]
        w = case.weight[tuple(r.slice for r in piece.kernel)]
        bias = None if case.bias is None else case.bias[piece.output[1].slice]
        assert piece.geometry.input_shape == x.shape
        assert piece.geometry.weight_shape == w.shape
        where = tuple(r.slice for r in piece.output)
        assert np.isnan(merged[where]).all(), "pieces overlap"
        merged[where] = reference.convolve(x, w, bias, piece.geometry)
    np.testing.assert_array_equal(merged, whole)


@settings(max_examples=100)
@given(case=cases(max_groups=6, max_batch=4), workers=st.integers(1, 9))
def test_a_plan_uses_each_worker_once_at_most_and_sends_no_byte_twice(case: Case, workers: int):
    names = tuple(f"w{i}" for i in range(workers))
    plan = plan_step(Problem(case.geometry, case.types), names).plan
    used = [s.worker for s in plan.shards]
    assert len(set(used)) == len(used) <= workers
    g = case.geometry
    assert sum(s.multiply_adds for s in plan.shards) == g.batch * case.weight.size * np.prod(
        g.input if g.transposed else g.output
    )
    # by batch the kernel goes to every worker of a group, the input to one only
    batch_parts = len({s.input[0] for s in plan.shards})
    assert sum(s.bytes_in for s in plan.shards) == case.x.nbytes + batch_parts * case.weight.nbytes
    assert sum(s.bytes_out for s in plan.shards) == np.prod(g.output_shape) * case.types.output.itemsize


def test_alexnet_conv2_is_two_towers():
    from groupconv_server.catalogue import layer_named
    from groupconv_server.demo.check import types_of

    layer = layer_named("alexnet_conv2")
    f32 = np.dtype("float32")
    plan = plan_step(Problem(layer.geometry, types_of(f32, f32)), ("gpu0", "gpu1")).plan
    assert plan.cut == "group"
    assert [(s.worker, s.input[1], s.output[1]) for s in plan.shards] == [
        ("gpu0", Range(0, 48), Range(0, 128)),
        ("gpu1", Range(48, 96), Range(128, 256)),
    ]
    text = plan.reason
    assert "2 groups" in text
