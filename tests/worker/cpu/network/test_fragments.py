"""Networks of which onnxruntime computes some parts, in an arena full of NaN, against onnxruntime alone."""

import numpy as np
import onnxruntime
import pytest
from compiled_networks import TEAM, model
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from networks import model as networks_model
from networks import value
from onnx import TensorProto, helper
from worker.graph.drawn import Drawing, networks

from groupconv.errors import CancelledError
from groupconv_worker.cpu.network.fragments import FragmentedNetwork
from groupconv_worker.graph.graph import UnsupportedNodeError
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.job import Job

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def fragmented(data: bytes, shapes, island: float = 0.0) -> FragmentedNetwork:
    """A model as programs and sessions, its first arena full of NaN."""
    network = FragmentedNetwork(Optimized(read_model(data)).canonical(shapes), TEAM, island=island)
    arena = network._arenas.take(network.arena_bytes)
    arena.memory[:] = 0xFF
    network._arenas.give(arena)
    return network


def check(data: bytes, inputs, tolerance: float = 1e-5) -> FragmentedNetwork:
    network = fragmented(data, {name: x.shape for name, x in inputs.items()})
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    wanted = session.run(None, dict(inputs))
    for _ in range(2):
        found = network.run(inputs)
        for info, want in zip(session.get_outputs(), wanted, strict=True):
            assert found[info.name].dtype == want.dtype
            scale = max(float(np.abs(want).max(initial=0)), 1e-30)
            np.testing.assert_allclose(found[info.name], want, rtol=0, atol=tolerance * scale)
    return network


def sides(network: FragmentedNetwork) -> list[bool]:
    return [part.ours for part in network.parts]


def node(op: str, *inputs: str, to: str, **attributes):
    return helper.make_node(op, list(inputs), [to], name=to, **attributes)


RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, 6, 7)).astype(np.float32)
W = {
    "w": RNG.standard_normal((20, 5, 3, 3)).astype(np.float32),
    "v": RNG.standard_normal((4, 20, 1, 1)).astype(np.float32),
}
AROUND = {"pads": [1, 1, 1, 1]}


def test_a_part_between_two_programs() -> None:
    nodes = [
        node("Conv", "x", "w", to="a", **AROUND),
        node("Relu", "a", to="b"),
        node("Sinh", "b", to="c"),
        node("Atan", "c", to="d"),
        node("Add", "d", "b", to="e"),
        node("Conv", "e", "v", to="y"),
    ]
    network = check(model(nodes, {"x": X.shape}, W), {"x": X})
    assert sides(network) == [True, False, True]
    assert "Sinh 'c' has no kernel" in network.reasons["c"]
    assert len(network.timed({"x": X})[1]) == 3


def test_a_branch_of_the_runtime_beside_ours_is_one_part() -> None:
    nodes = [
        node("Conv", "x", "w", to="a", **AROUND),
        node("Sinh", "a", to="b"),
        node("Relu", "a", to="c"),
        node("Cosh", "c", to="d"),
        node("Add", "b", "d", to="y"),
    ]
    assert sides(check(model(nodes, {"x": X.shape}, W), {"x": X}, 1e-4)) == [True, False, True]


def test_outputs_and_inputs_of_other_dtypes() -> None:
    """The runtime's part reads an input of the network and makes an output of it."""
    nodes = [
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        node("Conv", "f", "w", to="a", **AROUND),
        helper.make_node("TopK", ["a", "k"], ["y", "indices"], axis=1),
    ]
    outputs = [value("y", (2, 3, 6, 7)), value("indices", (2, 3, 6, 7), TensorProto.INT64)]
    inputs = [value("n", X.shape, TensorProto.UINT8)]
    proto = networks_model(nodes, inputs, outputs, {**W, "k": np.array([3])})
    x = RNG.integers(0, 255, X.shape, np.uint8)
    assert False in sides(check(proto.SerializeToString(), {"n": x}))


def chain(*ops: str) -> bytes:
    nodes = [node("Conv", "x", "w", to="t0", **AROUND)]
    nodes += [node(op, f"t{i}", to=f"t{i + 1}") for i, op in enumerate(ops)]
    nodes.append(node("Conv", f"t{len(ops)}", "v", to="y"))
    return model(nodes, {"x": X.shape}, W)


def test_short_parts_of_ours_between_two_of_the_runtime_are_left_to_it() -> None:
    data = chain("Sinh", "Relu", "Atan")
    assert sides(fragmented(data, {"x": X.shape})) == [True, False, True, False, True]
    graph = Optimized(read_model(data)).canonical({"x": X.shape})
    network = FragmentedNetwork(graph, TEAM, island=3e-6)  # the Relu takes less, the convolutions take more
    assert sides(network) == [True, False, True]
    assert [n.op for n in network.parts[1].nodes] == ["Sinh", "Relu", "Atan"]


def test_what_is_better_left_to_the_runtime_is_refused_with_the_node() -> None:
    with pytest.raises(UnsupportedNodeError, match=r"Sinh 't1' has no kernel, and 4 parts"):
        fragmented(chain("Sinh", "Relu", "Atan", "Relu", "Sinh", "Relu", "Atan"), {"x": X.shape})
    with pytest.raises(UnsupportedNodeError, match="Sinh 't1'"):
        fragmented(chain("Sinh"), {"x": X.shape}, island=1.0)


def test_a_job_that_is_over_ends_between_the_parts() -> None:
    network = fragmented(chain("Sinh"), {"x": X.shape})
    over = Job()
    over.stop(CancelledError("the caller has gone"))
    with pytest.raises(CancelledError), over:
        network.run({"x": X})


FOREIGN = ("Atan", "Softsign", "Asinh")
"""Operators without a lowering that do not enlarge differences."""


@st.composite
def with_foreign(draw, blocks):
    """A drawn network, with an operator without a lowering behind some of its nodes."""

    class Mixed(Drawing):
        def step(self, x):
            made = super().step(x)
            if self.pick(True, False):
                made = self.node(self.pick(*FOREIGN), [made[0]], made[1])
            return made

    return draw(networks(blocks, Mixed))


def compare(drawn) -> None:
    proto, shape = drawn
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    try:
        network = check(proto.SerializeToString(), {"x": x}, 1e-4)
    except UnsupportedNodeError:
        assume(False)
    assume(len(network.parts) > 1)


@settings(max_examples=8, deadline=None, suppress_health_check=QUIET)
@given(with_foreign(1))
def test_some_networks(drawn) -> None:
    compare(drawn)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=QUIET)
@given(with_foreign(3))
def test_many_networks(drawn) -> None:
    compare(drawn)
