"""ConvSpec refuses what no shape could make legal, and says which field, what was expected and what came."""

import pickle

import numpy as np
import pytest

from groupconv import Activation, ConvSpec
from groupconv.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("stride", {"stride": 0}),
        ("stride", {"stride": -1}),
        ("stride", {"stride": 1.5}),
        ("stride", {"stride": True}),
        ("stride", {"stride": 2**31}),
        ("stride[1]", {"stride": (1, 0)}),
        ("stride", {"stride": ()}),
        ("stride", {"stride": (1, 1, 1, 1)}),
        ("dilation", {"dilation": 0}),
        ("groups", {"groups": 0}),
        ("groups", {"groups": -2}),
        ("padding", {"padding": -1}),
        ("padding", {"padding": "full"}),
        ("padding[0]", {"padding": ((1, 2, 3), 1)}),
        ("padding[1].high", {"padding": ((1, 2), (0, -1))}),
        ("padding_mode", {"padding_mode": "mirror"}),
        ("padding_mode", {"padding_mode": "reflect", "transposed": True}),
        ("activation", {"activation": "swish"}),
        ("activation", {"activation": 3}),
        ("output_padding", {"output_padding": 1}),
        ("output_padding", {"output_padding": -1, "transposed": True}),
    ],
)
def test_refusals_name_their_field(field, arguments):
    with pytest.raises(InvalidArgumentError) as caught:
        ConvSpec(**arguments)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: expected ")
    assert ", got " in str(caught.value)


@pytest.mark.parametrize(("kind", "slope"), [("relu", (0.1,)), ("leaky_relu", (0.1, 0.2))])
def test_activations_refuse_slopes_they_do_not_have(kind, slope):
    with pytest.raises(InvalidArgumentError, match=r"activation\.slope"):
        Activation(kind, slope)


def test_lists_and_numpy_integers_are_welcome_and_specs_are_values():
    spec = ConvSpec(stride=[np.int64(2), 1], padding=[[0, 1], 2], groups=np.int32(4), activation="prelu")
    assert spec == ConvSpec(stride=(2, 1), padding=((0, 1), 2), groups=4, activation=Activation("prelu", (0.25,)))
    assert hash(spec) == hash(pickle.loads(pickle.dumps(spec)))
    with pytest.raises(AttributeError):
        spec.groups = 2


def test_messages_never_repeat_a_huge_value():
    with pytest.raises(InvalidArgumentError) as caught:
        ConvSpec(padding_mode="x" * 10_000)
    assert len(str(caught.value)) < 400
