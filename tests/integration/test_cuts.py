"""A cut that a caller asks for, in place of the planner's choice."""

import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import InvalidArgumentError

RNG = np.random.default_rng(7)
X = RNG.standard_normal((2, 8, 12, 10), dtype=np.float32)
W = RNG.standard_normal((4, 4, 3, 3), dtype=np.float32)
SPEC = ConvSpec(groups=2, padding=1)
CUTS = ("nothing", "group", "batch", "rows", "columns", "group × rows", "rows * batch")


@pytest.mark.parametrize("cut", CUTS)
def test_every_way_to_ask_gives_the_cut_and_the_same_output(exact, bands, cut):
    whole = bands.convolve(X, W, None, SPEC)
    words = groupconv.convolution.cuts.cut_name(cut)
    if words.count("×"):  # three workers have no 2 × 2 pieces
        with pytest.raises(InvalidArgumentError, match=r"cut: expected for step 0 on 3 workers: nothing, "):
            bands.plan(X.shape, W.shape, SPEC, cut=cut)
        return
    assert bands.plan(X.shape, W.shape, SPEC, cut=cut).steps[0].cut == words
    result = bands.run(X, [Step(W, None, SPEC)], cut=cut)
    assert result.report.plan.steps[0].cut == words
    assert result.report.plan.steps[0].reason.startswith("as requested; ")
    np.testing.assert_array_equal(result.output, whole)
    np.testing.assert_array_equal(bands.conv2d(X, W, groups=2, padding=1, cut=cut), whole)
    with bands.load_layer("cut/conv", W, None, SPEC) as layer:
        np.testing.assert_array_equal(layer(X, cut=cut), whole)
        assert layer.run(X, cut=cut).report.plan.steps[0].cut == words


def test_a_cut_along_channels_needs_leave_to_reorder(bands):
    spec, w = ConvSpec(), RNG.standard_normal((1, 8, 1, 1), dtype=np.float32)
    with pytest.raises(InvalidArgumentError, match="cut: expected allow_reordering with a cut along channel"):
        bands.run(X, [Step(w, None, spec)], cut="channel")
    result = bands.run(X, [Step(w, None, spec)], cut="channel", allow_reordering=True)
    assert result.report.plan.steps[0].cut == "channel"
    np.testing.assert_allclose(result.output, bands.convolve(X, w), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("width", r"for step 0 on 3 workers: nothing, batch, filter, rows, columns \(or several .*, got 'width'"),
        ("sideways", r"cut: expected nothing, or one or more of group, batch, .*, got 'sideways'"),
        ("rows × rows", r"cut: expected nothing, or one or more of"),
        (3, r"cut: expected nothing, or one or more of .*, got 3"),
    ],
)
def test_a_cut_that_does_not_apply_is_refused(bands, cut, message):
    for ask in (
        lambda: bands.plan(X.shape, (4, 8, 3, 3), cut=cut),
        lambda: bands.conv2d(X, np.ones((4, 8, 3, 3), np.float32), cut=cut),
    ):
        with pytest.raises(InvalidArgumentError, match=message) as caught:
            ask()
        assert caught.value.field == "cut"


def test_the_step_that_cannot_be_cut_is_named(bands):
    steps = [Step(W, None, SPEC), Step(np.ones((3, 4, 1, 1), np.float32))]
    with pytest.raises(InvalidArgumentError, match=r"for step 1 on 3 workers: nothing, .*, got 'group'"):
        bands.plan(X.shape, steps, cut="group")
    plan = bands.plan(X.shape, steps, cut="rows")
    assert [step.cut for step in plan.steps] == ["rows", "rows"]


def test_a_cut_that_ran_has_a_measured_time_and_others_a_predicted_one(bands):
    shape = (1, 8, 14, 14)
    x, steps = np.ones(shape, np.float32), [Step(np.ones((8, 8, 3, 3), np.float32))]
    bands.run(x, steps, cut="rows")
    (step,) = bands.plan(shape, steps, cut="rows").steps
    assert step.measured
    assert "; measured " in step.reason
    assert {a.measured for a in step.alternatives if a.cut == "columns"} == {False}
    (other,) = bands.plan(shape, steps, cut="columns").steps
    assert not other.measured
    assert {a.measured for a in other.alternatives if a.cut == "rows" and a.shards == len(step.shards)} == {True}
    assert "measured" in str(other)
