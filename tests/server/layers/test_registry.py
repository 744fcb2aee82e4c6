"""Resident layers in memory: how many there may be."""

import numpy as np
import pytest

from groupconv import Step
from groupconv.errors import ResourceExhaustedError
from groupconv_server.layers.registry import Layers

STEPS = [Step(np.ones((1, 1, 1), np.float32))]


def load(layers: Layers, name: str) -> None:
    with layers.reserved(4) as room:
        layers.load(name, STEPS, room)


def names(layers: Layers) -> list[str]:
    return [layer.name for layer in layers.all()]


def test_layers_are_counted_however_small_they_are():
    layers = Layers(lambda *_: None, capacity=2**20, most=2)
    load(layers, "a")
    load(layers, "b")
    with pytest.raises(ResourceExhaustedError, match="2 are loaded"):
        load(layers, "c")
    layers.unload("a")
    load(layers, "c")
    assert names(layers) == ["b", "c"]


def test_the_layer_unused_for_longest_leaves_for_one_more():
    layers = Layers(lambda *_: None, capacity=2**20, most=2, evict=True)
    load(layers, "a")
    load(layers, "b")
    with layers.using("a"):
        pass
    load(layers, "c")
    assert names(layers) == ["a", "c"]
