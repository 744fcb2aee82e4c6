"""The catalogue of layers."""

import pytest

from groupconv.errors import InvalidArgumentError
from groupconv_server.layers.catalogue import catalogue, layer_named


@pytest.mark.parametrize("name", catalogue())
def test_each_layer_resolves_to_its_own_geometry(name):
    layer = layer_named(name)
    g = layer.geometry
    assert g.groups == layer.spec.groups
    assert layer.with_batch(3).geometry.output_shape == (3, *g.output_shape[1:])
    assert all(extent > 0 for extent in g.output_shape)


def test_arrays_are_the_same_for_the_same_seed():
    layer = layer_named("mobilenet_dw_14")
    (x, w, b), (x2, _, _), (x3, _, _) = layer.arrays(1), layer.arrays(1), layer.arrays(2)
    assert (x.shape, w.shape, len(b)) == (layer.geometry.input_shape, layer.geometry.weight_shape, 512)
    assert (x == x2).all()
    assert (x != x3).any()


def test_an_unknown_name_lists_the_others():
    with pytest.raises(InvalidArgumentError, match="alexnet_conv2"):
        layer_named("nothing")
