"""Pictures of networks."""

import itertools

import pytest
from networks import LIGHT

from groupconv.networks.layout import PASSING, arrange
from groupconv.networks.nodes import NodePlan
from groupconv.networks.picture import grouped
from groupconv.networks.plan import NetworkPlan
from groupconv_worker.graph.binding import Skeleton
from groupconv_worker.graph.model import read_model


def node(op, inputs, output, work=0):
    return NodePlan(f"{op}-{output}", op, (1, 2, 3), 0, work, "", tuple(inputs.split()), (output,))


def test_what_follows_alone_shares_a_box():
    nodes = [
        node("Conv", "x", "a"), node("BatchNormalization", "a", "b"), node("Relu", "b", "c"),
        node("Conv", "c", "d"), node("Sigmoid", "d", "e"), node("Mul", "d e", "f"), node("MaxPool", "f", "y"),
    ]  # fmt: skip
    boxes = [[n.op for n in box] for box in grouped(nodes)]
    assert boxes == [["Conv", "BatchNormalization", "Relu"], ["Conv"], ["Sigmoid"], ["Mul"], ["MaxPool"]]


def test_boxes_of_a_layer_do_not_overlap_and_readers_are_below():
    readers = {0: [1, 2, 3], 1: [4], 2: [4], 3: [5], 4: [5, 7], 5: [6], 6: [7]}
    layout = arrange(readers, 8)
    for upper, lowers in readers.items():
        assert all(layout.boxes[lower][2] > layout.boxes[upper][2] for lower in lowers)
    for (_, x1, y1), (_, x2, y2) in itertools.combinations(layout.boxes.values(), 2):
        assert y1 != y2 or abs(x1 - x2) >= 0.999
    passing = [chain for chain in layout.edges if len(chain) > 2]
    assert passing  # edges over several layers have places of their own
    for chain in passing:
        for _, x, y in chain[1:-1]:
            assert all(abs(x - bx) >= (1 + PASSING) / 2 - 1e-6 for _, bx, by in layout.boxes.values() if by == y)


def test_long_networks_are_wrapped():
    layout = arrange({i: [i + 1] for i in range(99)}, 100)
    assert len(layout.layers) > 3
    assert sum(layout.layers) == 100
    assert {column for column, _, _ in layout.boxes.values()} == set(range(len(layout.layers)))
    assert arrange({}, 0).boxes == {}


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_a_network_is_drawn(tmp_path, ending):
    found = read_model((LIGHT / "light_squeezenet.onnx").read_bytes())
    plan = Skeleton(found).bind({info.name: info.shape for info in found.inputs}, most=2**31).plan
    path = tmp_path / f"picture.{ending}"
    plan.picture(path, "squeezenet")
    data = path.read_bytes()
    assert data.startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending])
    if ending == "svg":
        text = data.decode()
        assert text.count("<!-- Conv → Relu -->") == 26
        assert text.count("<!-- Concat") == 8
        assert "1×1000×1×1" in text
        assert "squeezenet: 66 operators" in text


def test_an_empty_network_is_drawn(tmp_path):
    NetworkPlan((), (), 0).picture(tmp_path / "none.svg")
    assert (tmp_path / "none.svg").exists()
