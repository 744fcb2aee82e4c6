"""Networks cut over several workers of one process, in arenas full of NaN, against the whole network's program."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from compiled_networks import TEAM, model
from fully_convolutional import unet
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from onnx import helper
from worker.graph.drawn import networks
from worker.graph.test_partition import draw_cut, image, seeded

from groupconv.errors import CancelledError, DeadlineExceededError, InternalError
from groupconv_worker.cpu.network.network import CompiledNetwork
from groupconv_worker.cpu.network.sharded import ShardedNetwork
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.graph import Graph, Node, Tensor, UnsupportedNodeError
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.graph.partition.cut import AXES, Cut, even
from groupconv_worker.graph.partition.partition import partition
from groupconv_worker.graph.partition.uniform import uniform
from groupconv_worker.job import Job
from guards import guarded

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
WORKERS = 5
TEAMS = [Team(2 - worker % 2) for worker in range(WORKERS)]
THREADS = ThreadPoolExecutor(WORKERS)


def sharded(made):
    """A network on several workers: arenas full of NaN, and guard bytes around the memory that they share."""
    network = ShardedNetwork(made, TEAMS[: len(made.parts)])
    for program in (part._program for part in network._programs):
        buffer = program.buffers.take(program.bytes)
        buffer.memory[:] = 0xFF  # float32 of these bytes are NaN
        program.buffers.give(buffer)
    network._memory, around = guarded(network._memory)
    return network, around


def run(network, inputs, job=None):
    outputs, parts = network.run(inputs, job or Job(), THREADS, [2] * WORKERS)
    assert len(parts) == len(network.partition.parts)
    return outputs


def check(graph, made, inputs, tolerance=1e-4):
    """The whole network's outputs come, twice, and no byte around the shared memory is written."""
    network, around = sharded(made)
    guards = np.r_[around[:4096], around[-4096:]].copy()
    wanted = CompiledNetwork(graph, TEAM).run(inputs)
    for _ in range(2):
        found = run(network, inputs)
        assert found.keys() == wanted.keys()
        for name, want in wanted.items():
            scale = max(float(np.abs(want).max(initial=0)), 1e-30)
            np.testing.assert_allclose(found[name], want, rtol=0, atol=tolerance * scale, strict=True)
    np.testing.assert_array_equal(np.r_[around[:4096], around[-4096:]], guards)
    return network, wanted


def check_drawn(drawn, data):
    proto, shape = drawn
    graph = Optimized(read_model(proto.SerializeToString())).canonical({"x": shape})
    workers = data.draw(st.integers(2, WORKERS))
    cuts = {name: draw_cut(data.draw, graph.tensors[name].shape, workers) for name in graph.makers}
    try:
        check(graph, partition(graph, cuts, workers), {"x": image(shape)})
    except UnsupportedNodeError:
        reject()


@settings(max_examples=6, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=2), st.data())
def test_some_cuts_of_some_networks(drawn, data):
    check_drawn(drawn, data)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=4), st.data())
def test_many_cuts_of_many_networks(drawn, data):
    check_drawn(drawn, data)


U_NET = {"x": (2, 2, 32, 24)}


def u_net():
    return seeded(unet(levels=3, base=8).SerializeToString(), U_NET)[0]


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_u_net_along_each_axis(axis):
    graph = u_net()
    network, _ = check(graph, uniform(graph, AXES[axis], 2), {"x": image(U_NET["x"])})
    assert bool(network.partition.exchanges) == (axis > 0)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("shape", [(), (8, 1, 1), (2, 1, 1, 1), (12, 10)])
def test_operands_that_are_inputs_of_fewer_axes(axis, shape):
    inputs = {"x": image((2, 3, 12, 10)), "s": image(shape) + np.float32(2)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Mul", ["s", "c"], ["m"])]
    nodes.append(helper.make_node("Conv", ["m", "v"], ["y"], pads=[1] * 4))
    weights = {"w": image((8, 3, 3, 3)), "v": image((8, 8, 3, 3))}
    shapes = {name: x.shape for name, x in inputs.items()}
    graph = Optimized(read_model(model(nodes, shapes, weights))).canonical(shapes)
    check(graph, uniform(graph, AXES[axis], 2), inputs)


@pytest.mark.parametrize("cut", ["channels", "rows", "planned"])
def test_the_coordinator_brings_each_element_once(cut):
    """Channels need the whole input on each worker: workers send it to each other."""
    shapes = {"x": (1, 2, 96, 16)}
    graph, _ = seeded(unet(levels=2, base=16).SerializeToString(), shapes)
    turns = {
        name: Cut.along(graph.tensors[name].shape, 1 + i % 2, even(graph.tensors[name].shape[1 + i % 2], 2))
        for i, name in enumerate(graph.makers)
    }
    made = CutChoice(cut, turns if cut == "planned" else {}).partition(graph, 2, 8)
    network, wanted = check(graph, made, {"x": image(shapes["x"])})
    _, parts = network.run({"x": image(shapes["x"])}, Job(), THREADS, [1, 1])
    once = image(shapes["x"]).nbytes + sum(y.nbytes for y in wanted.values())
    assert sum(part.coordinator_bytes for part in parts) <= 1.05 * once


def test_the_same_kernels_give_the_same_bits():
    """Samples are cut, so every kernel sees what it saw before."""
    graph = u_net()
    network, wanted = check(graph, uniform(graph, AXES[0], 2), {"x": image(U_NET["x"])}, tolerance=0)
    assert network.partition.outputs.keys() == wanted.keys()


def test_an_own_part_that_is_made_as_an_array_arrives():
    """A map of which one operator makes an array, the next one wants the rows of both workers."""
    shapes = {"x": (1, 5, 4, 4), "p": (1, 5, 4, 5), "y": (1, 5, 4, 5)}
    weight = np.random.default_rng(2).standard_normal((5, 5, 3, 3)).astype(np.float32)
    conv = {"pads": (1,) * 4, "group": 1, "kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1)}
    nodes = (
        Node("Conv", ("x", "w"), ("c",), conv),
        Node("Pad", ("c",), ("p",), {"mode": "reflect", "pads": (0,) * 7 + (1,)}),
        Node("Relu", ("p",), ("y",)),
    )
    tensors = {name: Tensor(name, np.dtype("float32"), shape) for name, shape in shapes.items()}
    tensors |= {"c": replace(tensors["x"], name="c"), "w": Tensor("w", np.dtype("float32"), weight.shape)}
    graph = Graph(("x",), ("y",), nodes, tensors, {"w": weight})
    cuts = {
        "c": Cut.along(shapes["x"], 2, (0, 1, 4)),
        "p": Cut.along(shapes["p"], 2, (0, 1, 4)),
        "y": Cut.on(shapes["y"], 2, worker=1),
    }
    network, _ = check(graph, partition(graph, cuts, 2), {"x": image(shapes["x"])})
    assert [node.op for node in network.partition.parts[1].graph.nodes][-2:] == ["Receive", "Relu"]


def same(found, graph, inputs):
    for name, want in CompiledNetwork(graph, TEAM).run(inputs).items():
        np.testing.assert_allclose(found[name], want, rtol=0, atol=1e-4 * float(np.abs(want).max()))


def gone_after(looks):
    """A job whose caller goes after some looks."""
    looks = itertools.count(-looks)
    return Job(alive=lambda: next(looks) < 0)


@pytest.mark.parametrize(
    ("make", "error"),
    [(lambda: Job(time.monotonic() + 0.1), DeadlineExceededError), (lambda: gone_after(5), CancelledError)],
)
def test_a_worker_waits_no_longer_than_the_job(make, error):
    """The other part starts once the job is over, so nothing comes before."""
    graph, inputs, job = u_net(), {"x": image(U_NET["x"])}, make()
    network, _ = sharded(uniform(graph, AXES[2], 2))

    def busy():
        while not job.poll():
            time.sleep(0.005)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(busy)
        with pytest.raises(error):
            network.run(inputs, job, threads, [1, 1])
    same(run(network, inputs), graph, inputs)  # what was half sent is not taken for this run's


@pytest.mark.parametrize("worker", [0, 1])
def test_a_part_that_fails_ends_the_others(worker, monkeypatch):
    graph = u_net()
    network, _ = sharded(uniform(graph, AXES[2], 2))
    inputs = {"x": image(U_NET["x"])}

    def fail(*_args, **_kwargs):
        raise MemoryError("no memory for a part")

    with monkeypatch.context() as patch:
        patch.setattr(network._programs[worker], "run", fail)
        with pytest.raises((InternalError, MemoryError), match="no memory for a part"):
            run(network, inputs)
    same(run(network, inputs), graph, inputs)
