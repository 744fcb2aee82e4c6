"""Models that no runtime can run are refused with the node or the tensor that is at fault."""

import numpy as np
import pytest
from networks import model, value
from onnx import TensorProto, helper

from groupconv.errors import InvalidArgumentError
from groupconv_worker.graph.binding import Skeleton
from groupconv_worker.graph.model import read_model
from groupconv_worker.networks.session import NetworkSession

X, Y, FREE = value("x", [1, 4, 8, 8]), value("y", ["n", "c", "h", "w"]), helper.make_empty_tensor_value_info("y")
WEIGHTS = np.ones((4, 4, 3, 3), np.float32)
OURS, ONNX = helper.make_opsetid("ours", 1), helper.make_opsetid("", 21)


def loaded(proto):
    """What loading a network does."""
    found = read_model(proto.SerializeToString())
    Skeleton(found).bind({info.name: info.shape for info in found.inputs}, most=2**30)
    return NetworkSession(found, threads=1)


def conv(*inputs, name="stage2/conv1", **attributes):
    return helper.make_node("Conv", ["x", *inputs], ["y"], name, **attributes)


def of_tensor(**fields):
    """A convolution whose weights are a tensor with these fields."""
    proto = model([conv("w")], [X], [Y])
    proto.graph.initializer.append(TensorProto(name="w", **fields))
    return proto


def in_function(*nodes, called=True):
    function = helper.make_function("ours", "f", ["a"], ["b"], nodes, [OURS, ONNX])
    outer = helper.make_node("f", ["x"], ["y"], domain="ours") if called else helper.make_node("Relu", ["x"], ["y"])
    return model([outer], [X], [Y], None, [function], [OURS])


@pytest.mark.parametrize(
    ("proto", "path"),
    [
        (model([conv()], [X], [Y]), "model.graph.node[0] (Conv 'stage2/conv1')"),
        (model([conv("w", strides=[0, 0])], [X], [Y], {"w": WEIGHTS}), "model.graph.node[0] (Conv 'stage2/conv1')"),
        (model([conv("w", strides="2")], [X], [Y], {"w": WEIGHTS}), "model.graph.node[0] (Conv 'stage2/conv1')"),
        (
            model([conv("w")], [X], [Y], {"w": WEIGHTS.astype(np.float64)}),
            "model.graph.node[0] (Conv 'stage2/conv1')",
        ),
        (
            of_tensor(data_type=TensorProto.FLOAT, dims=[4, 4, 3, 3], raw_data=b"1234"),
            "model.graph.node[0] (Conv 'stage2/conv1').input[1]",
        ),
        (
            of_tensor(data_type=TensorProto.FLOAT, dims=[-4, 4, 3, 3]),
            "model.graph.initializer[0] 'w'.dims: expected extents from 0, got [-4, 4, 3, 3]",
        ),
        (of_tensor(data_type=99, dims=[4, 4, 3, 3]), "model.graph.initializer[0] 'w'.data_type"),
        (model([helper.make_node("Blur", ["x"], ["y"], "blur")], [X], [Y]), "model.graph.node[0] (Blur 'blur')"),
        (
            model([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Blur", ["a"], ["y"])], [X], [Y]),
            "model.graph.node[1] (Blur 'y')",
        ),
        (in_function(helper.make_node("Blur", ["a"], ["b"], "blur")), "model.functions[0].node[0] (Blur 'blur')"),
        (
            in_function(helper.make_node("f", ["a"], ["b"], "inner", domain="ours"), called=False),
            "function ours.f.node[0] (f 'inner'): expected functions that do not call themselves",
        ),
    ],
)
def test_the_error_names_what_is_at_fault(proto, path):
    with pytest.raises(InvalidArgumentError) as error:
        loaded(proto)
    assert str(error.value).startswith(path)


def test_an_output_whose_shape_the_file_does_not_tell():
    proto = model([conv("w")], [X], [FREE], {"w": WEIGHTS})
    assert loaded(proto).model.outputs[0].shape == (1, 4, 6, 6)
    proto.graph.node[0].op_type = "Blur"  # nothing tells the shape of its output
    with pytest.raises(InvalidArgumentError, match=r"model.graph.output\[0\] 'y'"):
        loaded(proto)
