"""Nodes that cannot run are refused by the server with their name, at the load or, of free axes, at the call."""

import numpy as np
import pytest
from networks import model, value
from onnx import helper

from groupconv.errors import InvalidArgumentError

FREE = [1, 4, "h", "w"]
NONE, ROW = np.ones((1, 4, 0, 9), np.float32), np.ones((1, 4, 1, 9), np.float32)


def with_node(op, **attributes):
    weights = {"w": np.ones((4, 4, 3, 3), np.float32)} if op == "Conv" else {}
    node = helper.make_node(op, ["x", *weights], ["y"], "odd", **attributes)
    return model([node], [value("x", FREE)], [value("y", ["n", "c", "rows", "columns"])], weights)


@pytest.mark.parametrize(
    ("op", "attributes", "field"),
    [
        ("Conv", {"group": 0}, "group"),
        ("Conv", {"pads": [0, 2**62, 0, 0]}, "pads[1]"),
        ("Conv", {"strides": [1]}, "strides"),
        ("Conv", {"auto_pad": "LEFT"}, "auto_pad"),
        ("Transpose", {"perm": [0, 1, 1, 2]}, "perm"),
    ],
)
def test_the_load_names_the_attribute(client, op, attributes, field):
    with pytest.raises(InvalidArgumentError) as error:
        client.load_network("net/odd", with_node(op, **attributes))
    assert error.value.field == f"model.graph.node[0] ({op} 'odd').{field}"


@pytest.mark.parametrize(
    ("op", "attributes", "x", "said"),
    [
        ("Conv", {"pads": [0, 1, 1, 1]}, NONE, ".input[0]: expected at least 2 elements along axis 2, as the kernel"),
        ("Conv", {}, ROW, ".input[0]: expected at least 3 elements along axis 2, as the kernel covers 3 and 0"),
        (
            "MaxPool",
            {"kernel_shape": [9, 9]},
            ROW,
            ": expected inputs whose output has extents from 0, got [1, 4, -7, 1]",
        ),
    ],
)
def test_the_call_names_the_node(client, op, attributes, x, said):
    with client.load_network("net/odd", with_node(op, **attributes)) as net:
        with pytest.raises(InvalidArgumentError) as error:
            net(x)
        assert f"model.graph.node[0] ({op} 'odd'){said}" in str(error.value)
        assert net(np.ones((1, 4, 9, 9), np.float32)).size


@pytest.mark.parametrize("shape", [(5,), (4, 4)])
def test_a_convolution_without_axes_of_space_is_named(client, shape):
    """Of one axis it was an error of the server."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], "flat")
    x, y = value("x", list(shape)), value("y", ["n", "c"])
    with pytest.raises(InvalidArgumentError, match=r"flat.*input\[1\]: expected weights of filters, channels and axes"):
        client.load_network("odd", model([node], [x], [y], {"w": np.ones(shape, np.float32)}).SerializeToString())
