"""Networks cut over several emulated GPUs of one process, against the whole network on one of them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from compiled_networks import model
from device_networks import small_alexnet, small_resnet
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from networks import mixed_cuts
from onnx import helper
from worker.graph.drawn import networks
from worker.graph.test_partition import draw_cut, image

from emulation import emulated_engines, needs_compiler
from groupconv.errors import CancelledError, DeadlineExceededError, InternalError
from groupconv_worker.contract import DeviceLostError
from groupconv_worker.cuda.network.lowering import Meeting
from groupconv_worker.cuda.network.network import DeviceNetwork
from groupconv_worker.cuda.network.sharded import DeviceShardedNetwork, cut_over_devices
from groupconv_worker.graph.graph import UnsupportedNodeError
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.graph.partition.partition import partition
from groupconv_worker.graph.partition.uniform import uniform
from groupconv_worker.graph.partition.zones import LINE
from groupconv_worker.job import Job

pytestmark = needs_compiler
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
GPUS = 3
THREADS = ThreadPoolExecutor(GPUS)


@pytest.fixture(scope="module")
def engines():
    with emulated_engines(GPUS, algorithm="direct") as engines:  # a part has the algorithm of the whole
        yield engines


def bound(made):
    data, shape = made
    return Optimized(read_model(data)).canonical({"x": shape})


def run(network, inputs, job=None):
    outputs, parts = network.run(inputs, job or Job(), THREADS, [1] * GPUS)
    assert len(parts) == len(network.partition.parts)
    return outputs


def compare(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name, want in wanted.items():
        most = max(float(np.abs(want).max(initial=0)), 1e-30)
        np.testing.assert_allclose(found[name], want, rtol=0, atol=tolerance * most, strict=True)


def check(graph, made, inputs, engines, tolerance=1e-5, recorded=True):
    """The whole network's outputs come, and what an earlier run has sent is not taken for a later one's."""
    network = DeviceShardedNetwork(made, engines[: len(made.parts)])
    whole = DeviceNetwork(graph, engines[0])
    for scale in (1, -2, 1):
        scaled = {name: scale * x for name, x in inputs.items()}
        compare(run(network, scaled), whole.run(scaled), tolerance)
    assert all(part._pool.idle[0].recorded == recorded for part in network._parts)
    return network


@pytest.mark.parametrize(("network", "cut", "tolerance"), [
    (small_alexnet, "samples", 0),
    (small_alexnet, "channels", 1e-5),  # matrices of fewer rows are summed in another order
    (small_resnet, "rows", 0),
    (small_resnet, "columns", 0),
])  # fmt: skip
def test_networks_along_each_axis(engines, network, cut, tolerance):
    """To the bit where a part's kernels sum in the order of the whole's."""
    data, shape = network()
    graph = bound((data, shape))
    made = check(graph, uniform(graph, cut, 2), {"x": image(shape)}, engines, tolerance)
    assert bool(made.partition.exchanges) == (cut != "samples")


def test_each_tensor_has_a_cut_of_its_own(engines):
    data, shape = small_resnet()
    graph = bound((data, shape))
    check(graph, partition(graph, mixed_cuts(graph, GPUS), GPUS), {"x": image(shape)}, engines)


def test_a_run_meets_others_between_its_graphs(engines):
    data, shape = small_resnet()
    graph = bound((data, shape))
    network = check(graph, uniform(graph, "rows", 2), {"x": image(shape)}, engines)
    for part in network._parts:
        steps = part._pool.idle[0]._steps
        meetings = [step for step in steps if isinstance(step, Meeting)]
        mine = {LINE * n for n, e in enumerate(network.partition.exchanges) if part is network._parts[e.receiver]}
        assert {meeting.semaphore for meeting in meetings if meeting.waits} == mine
        assert len(meetings) == len(network.partition.exchanges)
    assert network.nbytes > sum(e.nbytes for e in network.partition.exchanges)


def check_drawn(drawn, data, engines):
    proto, shape = drawn
    graph = bound((proto.SerializeToString(), shape))
    workers = data.draw(st.integers(2, GPUS))
    cuts = {name: draw_cut(data.draw, graph.tensors[name].shape, workers) for name in graph.makers}
    try:
        check(graph, partition(graph, cuts, workers), {"x": image(shape)}, engines, tolerance=1e-4)
    except UnsupportedNodeError:
        reject()


@settings(max_examples=4, deadline=None, suppress_health_check=QUIET)
@given(drawn=networks(blocks=2), data=st.data())
def test_some_cuts_of_some_networks(engines, drawn, data):
    check_drawn(drawn, data, engines)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(drawn=networks(blocks=3), data=st.data())
def test_many_cuts_of_many_networks(engines, drawn, data):
    check_drawn(drawn, data, engines)


def steps():
    """Two convolutions of which each needs rows that the other part's worker made."""
    rng = np.random.default_rng(3)
    weights = {name: rng.standard_normal((4, 4, 3, 3)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["c"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["c", "w"], ["y"], "second", pads=[1] * 4),
    ]
    return model(nodes, {"x": (1, 4, 8, 8)}, weights), (1, 4, 8, 8)


X = {"x": image((1, 4, 8, 8))}


def halves(engines):
    graph = bound(steps())
    return cut_over_devices(graph, CutChoice("rows"), engines[:2]), DeviceNetwork(graph, engines[0]).run(X)


def test_parts_without_room_for_graphs_run_launch_by_launch():
    with emulated_engines(2, graph_memory=0) as engines:
        graph = bound(steps())
        check(graph, uniform(graph, "rows", 2), X, engines, recorded=False)


@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize("end", ["deadline", "cancel"])
def test_a_part_that_sends_nothing_does_not_hold_the_others(engines, monkeypatch, worker, end):
    network, wanted = halves(engines)
    compute, stuck, other_waits, begun = network.compute, threading.Event(), threading.Event(), threading.Event()

    def late(part, inputs, number, job):
        if part != worker:
            other_waits.set()
            return compute(part, inputs, number, job)
        begun.set()  # a part that has not begun is not asked to, once the caller has gone
        with job.on_stop(stuck.set):
            assert stuck.wait(30)
        job.check()
        return {}

    monkeypatch.setattr(network, "compute", late)
    alive, error = (lambda: True, DeadlineExceededError) if end == "deadline" else (
        lambda: not (other_waits.is_set() and begun.is_set()), CancelledError
    )  # fmt: skip
    with pytest.raises(error):
        run(network, X, Job(time.monotonic() + (0.3 if end == "deadline" else 30), alive))
    assert stuck.is_set()
    monkeypatch.undo()
    compare(run(network, X), wanted, 0)  # nothing of the run before is left


@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize("error", [MemoryError("no memory for a part"), DeviceLostError("the context is lost")])
def test_a_part_that_fails_ends_the_run(engines, monkeypatch, worker, error):
    network, wanted = halves(engines)
    compute = network.compute

    def failing(part, inputs, number, job):
        if part == worker:
            raise error
        return compute(part, inputs, number, job)

    monkeypatch.setattr(network, "compute", failing)
    kind = DeviceLostError if isinstance(error, DeviceLostError) else (InternalError, MemoryError)
    with pytest.raises(kind):
        run(network, X)
    monkeypatch.undo()
    compare(run(network, X), wanted, 0)


def test_a_part_whose_graphs_were_dropped_records_them_anew(engines):
    network, wanted = halves(engines)
    run(network, X)
    engines[1].gpu.make_room()
    compare(run(network, X), wanted, 0)


def test_numbers_of_runs_do_not_go_around(engines):
    """No run waits for less than its own number, however large that is and however long ago the last run was."""
    network, wanted = halves(engines)
    for number in (2**31 - 2, 2**32 - 2, 2**40):
        network.number = number
        for _ in range(3):
            compare(run(network, X), wanted, 0)
            assert (network._semaphores._semaphores == network.number).all()
