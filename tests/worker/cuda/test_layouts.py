"""Tap tables, packed filters and launches: pure NumPy, no device and no emulation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker.cuda.algorithms.grouping import BANKS, SHARED_BYTES, THREADS, plan_launch
from groupconv_worker.cuda.algorithms.sliding import FILTERS, divisor
from groupconv_worker.cuda.algorithms.sliding import plan_launch as plan_sliding
from groupconv_worker.cuda.arguments import gather_of, pack_filters, phases_of
from strategies import Case, cases, square_cases


@settings(max_examples=100)
@given(case=cases())
def test_every_tap_is_in_the_phases_that_can_reach_an_output_and_in_one_only(case: Case):
    g = case.geometry
    phases = phases_of(g)
    rows = list(zip(phases.taps["c"].tolist(), phases.kernel_index.tolist(), strict=True))
    assert len(set(rows)) == len(rows)
    taps = g.in_channels // g.groups * np.prod(g.kernel)
    assert len(rows) <= taps
    if not g.transposed or all(s <= o for s, o in zip(g.stride, g.output, strict=True)):
        assert len(rows) == taps


def test_a_stride_wider_than_the_output_makes_no_empty_phases():
    g = resolve(ConvSpec(transposed=True, stride=2**31 - 1), (1, 1, 1), (1, 1, 3))
    assert phases_of(g).starts.tolist() == [0, 1, 2, 3]


@settings(max_examples=50)
@given(case=cases())
def test_packed_filters_are_the_filters(case: Case):
    g = case.geometry
    phases = phases_of(g)
    packed = pack_filters(case.weight, g, phases, 4)
    assert packed.shape[2] % 4 == 0
    per_group = g.out_channels // g.groups
    assert not packed[:, :, per_group:].any()
    for group in range(g.groups):
        for row, (tap, index) in enumerate(zip(phases.taps, phases.kernel_index, strict=True)):
            c = group * (g.in_channels // g.groups) + tap["c"] if g.transposed else tap["c"]
            if g.transposed:
                want = case.weight[c].reshape(per_group, -1)[:, index]
            else:
                want = case.weight[group * per_group : (group + 1) * per_group, c].reshape(per_group, -1)[:, index]
            np.testing.assert_array_equal(packed[group, row, :per_group], want)


def test_offsets_beyond_32_bits_are_counted_in_64():
    g = resolve(ConvSpec(padding=1), (4, 1024, 2048, 2048), (64, 1024, 3, 3))
    record = gather_of(g, phases_of(g), 4, 1, 64)
    assert record["x_batch"] == 1024 * 2048 * 2048


DEPTHWISE = {
    "112, 3x3": (112, 3, 1),
    "112, 3x3 stride 2": (112, 3, 2),
    "56, 7x7": (56, 7, 1),
    "28, 5x5": (28, 5, 1),
    "14, 3x3": (14, 3, 1),
    "14, 5x5 stride 2": (14, 5, 2),
    "7, 3x3": (7, 3, 1),
    "7, 7x7": (7, 7, 1),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_lanes_of_a_warp_read_different_banks(name: str):
    """The word that thread t reads first, for every tap: 32 lanes, 32 banks. float32: a word is an element."""
    extent, kernel, stride = DEPTHWISE[name]
    spec = ConvSpec(groups=64, padding=kernel // 2, stride=stride)
    g = resolve(spec, (1, 64, extent, extent), (64, 1, kernel, kernel))
    launch = plan_launch(g, 1, 64, 4)
    assert launch is not None
    r, outputs = launch.argument, launch.shape[3]
    t = np.arange(launch.threads)
    lane, strip, local = t % r["lanes"], t // r["lanes"] % r["strips"], t // (r["lanes"] * r["strips"])
    for kx in range(kernel):
        word = local * r["plane"] + strip * outputs * stride * r["pitch"] + lane
        word = word + kx % stride * r["parity"] + kx // stride
        for warp in (word % BANKS)[local < r["groups"]].reshape(-1, BANKS)[: launch.threads // BANKS]:
            assert len(set(warp.tolist())) == BANKS


@settings(max_examples=200)
@given(case=cases(transposed=False), groups=st.integers(1, 70), batch=st.integers(1, 5))
def test_a_launch_fits_the_device_and_covers_the_output(case: Case, groups: int, batch: int):
    g = case.geometry
    launch = plan_launch(g, batch, groups, 4)
    assume(launch is not None)
    r = launch.argument
    assert launch.threads <= THREADS
    assert launch.threads % 32 == 0
    assert launch.shared <= SHARED_BYTES
    assert r["group_blocks"] * r["groups"] >= groups
    assert r["filter_chunks"] * launch.shape[2] >= g.out_channels // g.groups
    assert r["tiles_x"] * r["lanes"] >= g.output[-1]
    height = g.output[-2] if g.rank > 1 else 1
    assert r["tiles_y"] * r["strips"] * launch.shape[3] >= height


@given(n=st.integers(0, 2**31 - 1), d=st.integers(1, 2**31 - 1))
def test_divisions_by_multiplication_are_exact(n: int, d: int):
    """At any n, and at those next to a multiple of d, where the quotient changes."""
    _, multiplier, shift = divisor(d)
    assert multiplier < 2**32
    for value in (n, n - n % d, n - n % d - 1, 2**31 - 1, 2**31 - 1 - 2**31 % d):
        assert value < 0 or value * multiplier >> shift == value // d


@settings(max_examples=200)
@given(data=st.data(), depthwise=st.booleans(), batch=st.integers(1, 5), aligned=st.booleans())
def test_sliding_threads_cover_each_output_once(data: st.DataObject, depthwise: bool, batch: int, aligned: bool):
    g = data.draw(square_cases(depthwise=depthwise)).geometry
    filters = 1 if depthwise else FILTERS
    launch = plan_sliding(g, batch, g.groups, filters, 132, aligned=aligned, split=not depthwise)
    kernel, stride, side_by_side, below = launch.shape[:4]
    chunks, per_group = launch.argument["chunks"]["divisor"], launch.argument["per_group"]["divisor"]
    assert (per_group - 1) * filters < g.out_channels // g.groups <= per_group * filters
    assert chunks == g.groups * per_group
    places = launch.threads // launch.argument["splits"]
    assert (launch.blocks - 1) * places < launch.argument["threads"] <= launch.blocks * places
    assert launch.shared == (
        0 if launch.argument["splits"] == 1 else launch.threads * side_by_side * below * filters * 4
    )
    columns, strips = launch.argument["columns"]["divisor"], launch.argument["strips"]["divisor"]
    assert launch.argument["threads"] == batch * chunks * strips * columns
    for many, extent, each in ((strips, g.output[0], below), (columns, g.output[1], side_by_side)):
        assert (many - 1) * each < extent <= many * each
    if side_by_side > 1:  # nothing of a vector is outside the map or reaches into the next row
        assert aligned
        assert g.output[1] % side_by_side == 0
        assert g.input[1] == g.output[1] * stride
        assert g.padding[1][0] == kernel // 2


def test_a_map_of_few_threads_is_spread_over_the_device():
    g = resolve(ConvSpec(groups=512, padding=1), (128, 512, 14, 14), (512, 1, 3, 3))
    assert [plan_sliding(g, n, 512, 1, 132, aligned=True).threads for n in (1, 3, 32)] == [32, 64, 128]


@pytest.mark.parametrize(("width", "stride", "side_by_side"), [(56, 1, 4), (14, 1, 1), (56, 2, 4), (28, 2, 1)])
def test_rows_of_whole_vectors_are_loaded_as_such(width: int, stride: int, side_by_side: int):
    g = resolve(ConvSpec(groups=8, padding=1, stride=stride), (1, 8, width, width), (8, 1, 3, 3))
    assert plan_sliding(g, 1, 8, 1, 132, aligned=True).shape[2] == side_by_side
    assert plan_sliding(g, 1, 8, 1, 132, aligned=False).shape[2] == 1
    assert plan_sliding(replace(g, padding=((1, 1), (0, 2))), 1, 8, 1, 132, aligned=True).shape[2] == 1
