"""Streams: any banding equals the whole, whatever the convolution."""

import threading

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import groupconv
from groupconv import ConvSpec, Step
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.steps import geometries
from groupconv.errors import InvalidArgumentError
from groupconv.streaming.stream import transfer
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.problems import problems_of
from groupconv_server.streaming.band_size import choose
from groupconv_server.streaming.bands import Bands
from groupconv_server.streaming.budget import Budget
from groupconv_server.streaming.streams import Stream
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.engines import create_engine
from strategies import FLOATS, Case, cases, specs

PAIRS = tuple((f, f) for f in FLOATS) + (("uint8", "int8"), ("int8", "int32"), ("uint8", "float32"))
RNG = np.random.default_rng(0)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@settings(max_examples=250)
@given(case=cases(dtypes=PAIRS), rows=st.integers(1, 12))
def test_any_banding_of_any_spec_is_the_whole_bit_for_bit(bands, case: Case, rows):
    want = reference.convolve(case.x, case.weight, case.bias, case.geometry).astype(case.types.output)
    got = bands.stream_convolve(case.x, [Step(case.weight, case.bias, case.spec)], band_rows=rows)
    np.testing.assert_array_equal(got, want)


def test_rows_that_are_cropped_whole_are_not_asked_for_later(bands):
    """The whole of the step between the two needs no more rows than its parts do."""
    x, w, v = np.array([[[2.0, 3.0, 5.0]]]), np.array([[[7.0]]]), np.array([[[1.0, 10.0]]])
    steps = [Step(w, None, ConvSpec(padding=((1, 0),), transposed=True)), Step(v, None, ConvSpec(transposed=True))]
    assert bands.stream_convolve(x, steps, band_rows=1).tolist() == [[[21.0, 245.0, 350.0]]]


@pytest.mark.parametrize("rows", range(1, 10))
def test_the_whole_can_be_where_its_rows_that_are_not_cropped_cannot(bands, rows):
    """The second step crops the first row between the two, and the second row lies in a gap of the first step."""
    x, one = np.array([[[2.0, 3.0, 5.0, 7.0, 11.0]]]), np.ones((1, 1, 1))
    between = ConvSpec(stride=3, padding=1, output_padding=2, transposed=True)
    steps = [
        Step(one, None, between),
        Step(one, None, ConvSpec(stride=2, padding=2, output_padding=1, transposed=True)),
    ]
    want = bands.run(x, steps).output
    assert sorted(want[want != 0]) == [3.0, 5.0, 7.0, 11.0]
    np.testing.assert_array_equal(bands.stream_convolve(x, steps, band_rows=rows), want)


@settings(max_examples=120)
@given(case=cases(spec_activation=False, dtypes=(("float64", "float64"),)), rows=st.integers(1, 9), data=st.data())
def test_chains_accumulate_their_halos(bands, case: Case, rows, data):
    rank, channels = case.geometry.rank, case.geometry.out_channels
    kernel = data.draw(st.integers(1, 3))
    spec = data.draw(specs(rank, channels, channels, transposed=data.draw(st.booleans()), output=None))
    second = RNG.standard_normal((channels, 1, *[kernel] * rank))
    try:
        g = geometries([case.spec, spec], case.x.shape, [case.weight.shape, second.shape])
    except InvalidArgumentError:
        assume(False)
    assume(np.prod(g[1].output_shape) < 20_000 and np.prod(g[1].padded) < 20_000)
    middle = reference.convolve(case.x, case.weight, case.bias, g[0])
    want = reference.convolve(middle, second, None, g[1])
    got = bands.stream_convolve(
        case.x, [Step(case.weight, case.bias, case.spec), Step(second, None, spec)], band_rows=rows
    )
    np.testing.assert_array_equal(got, want)


def test_a_row_between_the_inputs_of_a_transposed_step_begins_with_the_band_that_holds_it():
    g = resolve(ConvSpec(stride=(3, 1), transposed=True), (1, 1, 8, 1), (1, 1, 1, 1))
    made = Bands([Problem(g, types_of(np.dtype("float32"), np.dtype("float32")))], 1)
    assert [made.first(row) for row in (17, 18, 20, 21)] == [15, 18, 18, 21]


@settings(max_examples=120)
@given(case=cases(), rows=st.integers(1, 6), data=st.data())
def test_a_stream_may_begin_at_any_row(bands, case: Case, rows, data):
    want = reference.convolve(case.x, case.weight, case.bias, case.geometry).astype(case.types.output)
    made = transfer(case.x, [Step(case.weight, case.bias, case.spec)], out=want.copy(), band_rows=rows)
    made.done = data.draw(st.integers(0, want.shape[0] * want.shape[2]))
    first, per = made.done, want.shape[2]
    for row in range(first, want.shape[0] * per):
        made.out[row // per, :, row % per] = 0  # what is missing
    got = bands._stream(made, 60)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("axis", [0, 1])
def test_padding_that_needs_an_edge(bands, mode, axis):
    """Circular padding along the rows makes a band of each sample; everything else needs rows near it alone."""
    x, w = f32(3, 2, 40, 30), f32(2, 2, 5, 5)
    padding = tuple((3, 2) if a == axis else (0, 0) for a in range(2))
    step = Step(w, spec=ConvSpec(padding=padding, padding_mode=mode))
    seen = []
    got = bands.stream_convolve(x, [step], band_rows=6, progress=seen.append)
    g = groupconv.resolve(step.spec, x.shape, w.shape)
    np.testing.assert_array_equal(got, reference.convolve(x, w, None, g).astype(np.float32))
    assert len(seen) == 3 if (mode, axis) == ("circular", 0) else len(seen) > 12


@pytest.mark.parametrize(("kernel", "algorithm"), [(5, "grouped"), (31, "fft"), (101, "fft")])
def test_bands_of_large_kernels_are_transformed(kernel, algorithm):
    w = RNG.standard_normal((3, 1, kernel, kernel)).astype(np.float32)
    spec = ConvSpec(padding=kernel // 2, groups=3)
    problems = problems_of((1, 3, 9000, 8000), np.dtype(np.float32), [Step(w, None, spec)])
    band = choose(problems, 0, Limits(), 1).widest().problems[0]
    engine = create_engine("cpu", threads=1)
    assert engine.heuristic(band, resident=False).name == algorithm
    assert band.geometry.input[0] < 2 * band.geometry.output[0]  # a halo is not most of the work
    engine.close()


@pytest.mark.ray
def test_bands_are_cut_over_actors(ray_executor):
    coordinator = Coordinator(ray_executor)
    x, w = f32(2, 4, 30, 9), f32(4, 2, 3, 3)
    steps = [Step(w, None, ConvSpec(padding=1, groups=2))]
    problems = problems_of(x.shape, x.dtype, steps)
    budget = Budget(2**20)
    with Stream(coordinator, budget, problems, steps, choose(problems, 7, coordinator.limits, 2)) as stream:
        rows = np.ascontiguousarray(x.swapaxes(1, 2))
        sender = threading.Thread(target=stream.receive, args=([memoryview(rows).cast("B")],))
        sender.start()
        got = np.concatenate([output.buffer.view(np.float32).copy() for output in stream.results()])
        sender.join()
    assert budget.held == 0
    want = reference.convolve(x, w, None, problems[0].geometry).astype(np.float32)
    np.testing.assert_array_equal(got.reshape(2, 30, 4, 9).swapaxes(1, 2), want)
