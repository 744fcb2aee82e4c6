"""Receptive fields and strides, against what a network's outputs really depend on."""

import itertools

import numpy as np
import onnxruntime
import pytest
from networks import LIGHT, model, value
from onnx import helper

from groupconv_worker.graph.binding import Skeleton
from groupconv_worker.graph.model import read_model

RNG = np.random.default_rng(0)
KERNEL = RNG.random((2, 2, 3, 3)).astype(np.float32) + 0.1


def planned(nodes, shape, weights=None):
    proto = model(nodes, [value("x", shape)], [value("y", ["n", "c", "h", "w"])], weights)
    data = proto.SerializeToString()
    return data, Skeleton(read_model(data)).bind({"x": shape}, most=2**31).plan.nodes[-1]


def conv(source, target, **attributes):
    return helper.make_node("Conv", [source, "w"], [target], target, **attributes)


STACKS = {
    "one": [conv("x", "y", pads=[1] * 4)],
    "dilated": [conv("x", "y", dilations=[3, 2])],
    "strided": [conv("x", "a", strides=[2, 3]), conv("a", "y")],
    "same": [conv("x", "a", auto_pad="SAME_UPPER", strides=[2, 2]), conv("a", "y", pads=[1] * 4)],
    "pooled": [
        conv("x", "a"), helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2]), conv("p", "y"),
    ],
    "branches": [
        conv("x", "a", pads=[1] * 4), conv("a", "b", pads=[1] * 4), helper.make_node("Add", ["x", "b"], ["y"]),
    ],
    "spread": [
        conv("x", "a", strides=[2, 2]), helper.make_node("ConvTranspose", ["a", "w"], ["y"], strides=[2, 2]),
    ],
    "shuffled": [
        conv("x", "a", pads=[1] * 4), helper.make_node("Reshape", ["a", "apart"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["t", "whole"], ["u"]), conv("u", "y"),
    ],
    "depths": [helper.make_node("SpaceToDepth", ["x"], ["d"], blocksize=2), helper.make_node("Relu", ["d"], ["y"])],
    "normal": [helper.make_node("InstanceNormalization", ["x", "s", "s"], ["n"]), conv("n", "y")],
    "gated": [
        conv("x", "a", pads=[1] * 4), helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        helper.make_node("Mul", ["a", "g"], ["y"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_an_output_depends_on_as_much_as_its_field_says(name):
    shape = (1, 2, 24, 24)
    weights = {"w": KERNEL, "apart": np.array([1, 2, 1, 24, 24]), "whole": np.array([1, 2, 24, 24])}
    weights["s"] = np.ones(2, np.float32)
    used = {source for node in STACKS[name] for source in node.input}
    data, node = planned(STACKS[name], shape, {n: w for n, w in weights.items() if n in used})
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    x = RNG.random(shape).astype(np.float32)
    (before,) = session.run(None, {"x": x})
    reached = {}  # of elements in the middle, which a transposed convolution treats in different ways
    for axis, i in itertools.product(range(2), range(24)):
        changed = x.copy()
        changed[(slice(None), slice(None), i) if axis == 0 else (..., i)] += 10
        (after,) = session.run(None, {"x": changed})
        moved = ~np.isclose(after, before, rtol=1e-6, atol=1e-6).all((0, 1))
        for place in itertools.product(*((extent // 2, extent // 2 + 1) for extent in before.shape[2:])):
            if moved[place]:
                reached.setdefault((axis, place), []).append(i)
    spans = [max(max(r) - min(r) + 1 for (a, _), r in reached.items() if a == axis) for axis in range(2)]
    assert node.receptive_field is not None
    whole = name in ("normal", "gated")
    for span, field in zip(spans, node.receptive_field, strict=True):
        assert span == field if not whole else field == 24 == span
    if name == "strided":
        assert node.stride == (2.0, 3.0)
    if name == "spread":
        assert node.stride == (1.0, 1.0)
    assert (node.stride is None) == (name == "normal")


@pytest.mark.parametrize(
    ("name", "op", "field", "stride"),
    [("bvlc_alexnet", "MaxPool", 195, 32), ("resnet50", "Conv", 427, 32), ("vgg19", "MaxPool", 268, 32)],
)
def test_fields_of_known_networks(name, op, field, stride):
    found = read_model((LIGHT / f"light_{name}.onnx").read_bytes())
    plan = Skeleton(found).bind({info.name: info.shape for info in found.inputs}, most=2**31).plan
    last = [node for node in plan.nodes if node.op == op][-1]
    assert last.receptive_field == (field, field)
    assert last.stride == (stride, stride)
    assert plan.nodes[-1].stride is None
    assert {node.op for node in plan.nodes}.isdisjoint({"Constant", "ConstantOfShape"})


def test_tensors_without_a_map_have_no_field():
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [2, 3])], [value("y", [2, 3])])
    (node,) = Skeleton(read_model(proto.SerializeToString())).bind({"x": (2, 3)}, most=2**31).plan.nodes
    assert (node.receptive_field, node.stride, node.inputs, node.outputs) == (None, None, ("x",), ("y",))
