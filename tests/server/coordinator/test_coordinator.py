"""Several steps, limits before allocation, plans without arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupconv import ConvSpec, Step
from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv.separable import depthwise_separable_steps
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.steps import Shaped
from groupconv_server.executors import create_executor
from groupconv_worker import reference

F32 = np.dtype("float32")


def shaped(kernel, dtype="float32", **spec):
    """A step whose kernel has no elements."""
    return Step(Shaped(np.dtype(dtype), kernel), None, ConvSpec(**spec))


@pytest.fixture(scope="module")
def coordinator():
    executor = create_executor("local", workers=2, threads=1, engine="reference")
    yield Coordinator(executor, Limits(message_bytes=2**20, tensor_bytes=2**20, steps=4))
    executor.close()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 3))
def test_steps_run_in_order(coordinator, seed, batch):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, 4, 9, 9))
    steps = depthwise_separable_steps(
        rng.standard_normal((4, 1, 3, 3)), rng.standard_normal((6, 4)), rng.standard_normal(6), ConvSpec(stride=2)
    )
    want = x
    from groupconv import resolve

    for s in steps:
        want = reference.convolve(want, s.kernel, s.bias, resolve(s.spec, want.shape, s.kernel.shape))
    outcome = coordinator.convolve(x, steps)
    np.testing.assert_array_equal(outcome.output, want)
    assert len(outcome.report.plan.steps) == len(outcome.report.steps) == 2
    assert set(outcome.report.phases) == {"plan", "execute", "merge"}
    planned = coordinator.plan(x.shape, x.dtype, steps)
    assert [s.output_shape for s in planned.steps] == [s.output_shape for s in outcome.report.plan.steps]


@pytest.mark.parametrize(
    ("spec", "x", "w", "words"),
    [
        ({"transposed": True, "stride": 10**6}, (1, 1, 8, 8), (1, 1, 2, 2), "an output of"),
        ({"padding": 2**30, "stride": 2**30}, (1, 1, 8, 8), (1, 1, 2, 2), "padded input"),
        ({"padding": 2**31 - 1}, (1, 1, 8, 8), (1, 1, 2, 2), "an output of"),
        ({}, (1, 1, 2**20, 2**20), (1, 1, 1, 1), "an output of"),
    ],
)
def test_too_much_is_refused_before_anything_is_allocated(coordinator, spec, x, w, words):
    with pytest.raises(ResourceExhaustedError, match=r"steps\[0\]: an? ") as caught:
        coordinator.plan(x, F32, [shaped(w, **spec)])
    assert words in str(caught.value)
    assert "limit" in str(caught.value)


def test_an_answer_that_fits_no_message_is_refused(coordinator):
    with pytest.raises(ResourceExhaustedError, match="output: "):
        coordinator.plan((1, 1, 511, 512), F32, [shaped((1, 1, 1, 1))])


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("steps", ((1, 1, 8), F32, [])),
        ("steps", ((1, 1, 8), F32, [shaped((1, 1, 1))] * 5)),
        ("input.dtype", ((1, 1, 8), np.dtype("int64"), [shaped((1, 1, 1))])),
        ("steps[0].kernel.dtype", ((1, 1, 8), F32, [shaped((1, 1, 1), "float64")])),
        (
            "steps[0].spec.activation",
            ((1, 1, 8), np.dtype("uint8"), [shaped((1, 1, 1), "int8", activation="gelu")]),
        ),
    ],
)
def test_refusals_carry_the_path(coordinator, field, arguments):
    with pytest.raises(InvalidArgumentError) as caught:
        coordinator.plan(*arguments)
    assert caught.value.field == field


def test_a_bias_must_fit_the_output_channels(coordinator):
    x = np.ones((1, 1, 8), np.float32)
    with pytest.raises(InvalidArgumentError, match=r"steps\[0\]\.bias\.shape: expected \[3\]"):
        coordinator.convolve(x, [Step(np.ones((3, 1, 1), np.float32), np.ones(2, np.float32))])
