"""Weights, multiply-adds, receptive fields and strides, of steps, layers, plans and stacks of them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupconv import ConvSpec, Step, receptive_field, resolve
from groupconv.convolution.totals import Window, field_of, stride_of
from groupconv.errors import InvalidArgumentError
from groupconv.networks.nodes import NodePlan
from groupconv.networks.plan import NetworkPlan
from groupconv.networks.tensors import TensorInfo
from groupconv_worker import reference

STEPS = [
    Step(np.ones((4, 2, 3, 5)), None, ConvSpec(stride=2, padding=1, groups=2)),
    Step(np.ones((4, 1, 3, 3)), None, ConvSpec(dilation=2, padding=2, groups=4)),
]


def test_a_step_has_its_numbers():
    first, second = STEPS
    assert (first.weights, first.stride, first.receptive_field) == (120, (2, 2), (3, 5))
    assert (second.weights, second.stride, second.receptive_field) == (36, (1, 1), (5, 5))
    assert first.multiply_adds((1, 4, 8, 9)) == 4 * 2 * 15 * 4 * 4
    g = resolve(first.spec, (3, 4, 8, 9), first.kernel.shape)
    assert (g.weights, g.multiply_adds, g.receptive_field) == (120, 3 * 1920, (3, 5))
    assert ConvSpec(dilation=(1, 3)).receptive_field((8, 8, 3, 3)) == (3, 7)


def test_stacks_of_everything_have_a_receptive_field():
    first, second = STEPS
    expected = (3 + 4 * 2, 5 + 4 * 2)
    assert receptive_field(STEPS) == expected
    assert receptive_field([(s.spec, s.kernel.shape) for s in STEPS]) == expected
    g = resolve(first.spec, (1, 4, 9, 9), first.kernel.shape)
    assert receptive_field([g, second]) == expected
    assert receptive_field([(3, 1, 1), (3, 1, 2)]) == 7
    assert receptive_field([]) == 1
    for wrong in (3, "conv", [3], [(3, 1)], [ConvSpec()], [Step(np.ones((1, 1, 3))), second]):
        with pytest.raises(InvalidArgumentError, match=r"^layers"):
            receptive_field(wrong)


windows = st.lists(
    st.builds(
        lambda k, s, d, t: Window((k,), (s,), (d,), t),
        st.integers(1, 4),
        st.integers(1, 3),
        st.integers(1, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40)
@given(windows)
def test_the_field_of_a_stack_is_what_an_impulse_reaches(stack):
    """Each input cell is set alone; the field is the widest range of inputs that any output sees."""
    length = 24
    seen = np.eye(length)[:, None, :]  # a sample for each input cell
    for w in stack:
        kernel, spec = (
            np.ones((1, 1, *w.kernel)),
            ConvSpec(stride=w.stride, dilation=w.dilation, transposed=w.transposed),
        )
        try:
            g = resolve(spec, seen.shape, kernel.shape)
        except InvalidArgumentError:
            return  # the window is larger than what is left
        seen = reference.convolve(seen, kernel, None, g)
    widest = 0
    for of_output in seen[:, 0, :].T:
        cells = np.flatnonzero(of_output)
        widest = max(widest, cells[-1] - cells[0] + 1 if len(cells) else 0)
    field = field_of(stack)[0]
    assert widest <= field
    far_from_edges = seen.shape[-1] >= 2 * max(1, 1 / float(stride_of(stack)[0])) and field < length // 2
    if far_from_edges and not any(w.transposed for w in stack):
        assert widest == field


def test_a_network_is_a_layer_of_a_stack():
    """The first output counts; a network that is denser than its input has a fraction as its stride."""
    info = TensorInfo("y", np.dtype("float32"), (1, 4, 8, 8))
    node = NodePlan("conv", "Conv", (1, 4, 8, 8), 9, 9, "own", ("x",), ("y",), (7, 5), (2.0, 0.5))
    plan = NetworkPlan((node,), (info,), 0)
    assert (plan.receptive_field, plan.stride) == ((7, 5), (2.0, 0.5))
    assert receptive_field(plan) == (7, 5)
    assert receptive_field([plan, (ConvSpec(), (4, 4, 3, 3))]) == (7 + 2 * 2, 5 + 1)
    assert repr(plan) == "NetworkPlan(1 operators, 9 weights, 9 multiply-adds, 0 B at most)"
    assert "<td>conv</td>" in plan._repr_html_()
    with pytest.raises(InvalidArgumentError, match=r"layers\[0\]: expected .* the plan of a network whose output sees"):
        receptive_field([NetworkPlan((replace(node, receptive_field=None),), (info,), 0)])


def test_the_stride_of_a_stack_is_a_product_of_strides_and_fractions():
    up, down = Window((2,), (2,), (1,), transposed=True), Window((3,), (2,), (1,))
    assert stride_of([down, down]) == (4,)
    assert stride_of([up, up]) == (Fraction(1, 4),)
    assert stride_of([down, up]) == (1,)
    assert field_of([down, up]) == (3,)
    assert field_of([up, down]) == (2,)
