"""The numbers of plans and layers, from a server."""

import numpy as np

import groupconv
from groupconv import ConvSpec, Step

STEPS = [
    Step(np.ones((8, 2, 5, 5), np.float32), None, ConvSpec(stride=2, padding=2, groups=2)),
    Step(np.ones((8, 8, 3, 3), np.float32), None, ConvSpec(padding=1)),
]
SHAPE = (2, 4, 12, 12)
MULTIPLY_ADDS = 2 * 400 * 36 + 2 * 576 * 36


def test_a_plan_has_numbers_for_each_step_and_in_all(bands):
    plan = bands.plan(SHAPE, STEPS)
    assert [step.weights for step in plan.steps] == [400, 576]
    assert [step.multiply_adds for step in plan.steps] == [2 * 400 * 36, 2 * 576 * 36]
    assert [step.receptive_field for step in plan.steps] == [(5, 5), (3, 3)]
    assert [step.stride for step in plan.steps] == [(2, 2), (1, 1)]
    assert (plan.weights, plan.multiply_adds) == (976, MULTIPLY_ADDS)
    assert (plan.receptive_field, plan.stride) == ((9, 9), (2, 2))
    assert "400 weights, 28,800 multiply-adds, receptive field 5 × 5, stride 2 × 2" in str(plan)
    assert str(plan).splitlines()[-1].endswith("976 weights, 70,272 multiply-adds, receptive field 9 × 9, stride 2 × 2")
    assert groupconv.receptive_field(plan) == (9, 9)
    assert plan.as_dict()["receptive_field"] == (9, 9)


def test_a_layer_has_numbers(bands):
    with bands.load_layer_steps("numbers", STEPS) as layer:
        assert (layer.weights, layer.stride, layer.receptive_field) == (976, (2, 2), (9, 9))
        assert layer.multiply_adds(SHAPE) == MULTIPLY_ADDS
        assert groupconv.receptive_field([layer, layer]) == (9 + 8 * 2, 9 + 8 * 2)
        assert "976 weights, receptive field 9 × 9, stride 2 × 2" in layer._repr_html_()
