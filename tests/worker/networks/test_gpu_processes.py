"""Networks cut over emulated GPUs of several processes, against the whole network on one of them."""

import os
import signal
from concurrent.futures import wait

import numpy as np
import pytest
from compiled_networks import model
from device_networks import small_alexnet, small_resnet
from gpu_processes import Gang, GpuProcess
from onnx import helper

from emulation import emulated_engine, needs_compiler
from groupconv.errors import CancelledError, DeadlineExceededError
from groupconv_worker.cuda.network.network import DeviceNetwork
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.networks.gang import GangLostError
from waiting import until

pytestmark = [needs_compiler, pytest.mark.timeout(600)]
NODES = {"one node": [0, 0], "two nodes": [0, 1]}


@pytest.fixture(scope="module")
def engine():
    with emulated_engine(algorithm="direct") as engine:
        yield engine


@pytest.fixture(scope="module")
def workers():
    made = [GpuProcess(), GpuProcess()]
    yield made
    for worker in made:
        worker.close()


def image(shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def check_runs(gang, data, shape, engine, tolerance):
    """What an earlier run has sent is not taken for a later one's."""
    whole = DeviceNetwork(Optimized(read_model(data)).canonical({"x": shape}), engine)
    for scale in (1, -2, 1):
        x = scale * image(shape)
        found, wanted = gang.run(x), whole.run({"x": x})
        assert found.keys() == wanted.keys()
        for name, want in wanted.items():
            np.testing.assert_allclose(found[name], want, rtol=0, atol=tolerance * float(np.abs(want).max()))


def two_layers():
    """Each half of the rows, or of the channels, needs something of the other half."""
    rng = np.random.default_rng(3)
    weights = {name: rng.standard_normal((16, 16, 3, 3)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["c"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["c", "w"], ["y"], "second", pads=[1] * 4),
    ]
    return model(nodes, {"x": (1, 16, 8, 8)}, weights), (1, 16, 8, 8)


def check_network(workers, engine, network, cut, tolerance, nodes):
    data, shape = network()
    gang = Gang(workers, data, shape, cut, NODES[nodes])
    check_runs(gang, data, shape, engine, tolerance)
    assert bool(gang.exchanges) == (cut != "samples")
    near = {(e.sender, e.receiver) for e in gang.exchanges} if nodes == "one node" else set()
    for number, worker in enumerate(workers):
        assert worker.call("held")["open"] == sum(sender == number for sender, _ in near)
    gang.drop()


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize(("cut", "tolerance"), [("rows", 0), ("channels", 1e-5)])
def test_two_layers(workers, engine, cut, tolerance, nodes):
    """Boxes go from device to device within a node, and by page-locked memory and TCP between nodes."""
    check_network(workers, engine, two_layers, cut, tolerance, nodes)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize(("network", "cut", "tolerance"), [
    (small_resnet, "rows", 0),
    (small_resnet, "columns", 0),
    (small_alexnet, "channels", 1e-5),  # matrices of fewer rows are summed in another order
    (small_alexnet, "samples", 0),
])  # fmt: skip
def test_networks_along_each_axis(workers, engine, network, cut, tolerance, nodes):
    check_network(workers, engine, network, cut, tolerance, nodes)


def test_devices_that_do_not_reach_each_other_use_memory_of_the_host(workers, engine):
    """One sender is refused, the other one is not."""
    data, shape = two_layers()
    workers[1].call("reach_others", False)
    gang = Gang(workers, data, shape, "rows")
    workers[1].call("reach_others", True)
    check_runs(gang, data, shape, engine, 0)
    assert [worker.call("held")["open"] for worker in workers] == [1, 0]
    gang.drop()


def test_nothing_is_left_of_a_network_that_is_dropped(workers):
    data, shape = two_layers()

    def once(nodes):
        gang = Gang(workers, data, shape, "rows", nodes)
        gang.run(image(shape))
        gang.drop()

    for nodes in NODES.values():
        once(nodes)
    before = [worker.call("held") for worker in workers]
    for nodes in (*NODES.values(), *NODES.values()):
        once(nodes)
    until(lambda: all(is_less(worker.call("held"), then) for worker, then in zip(workers, before, strict=True)))
    assert not any(worker.call("held")[what] for worker in workers for what in ("open", "exported", "page-locked"))
    assert not any(worker.call("freed_while_open") for worker in workers)


def is_less(now, then):
    """Whether a worker holds no more than before."""
    return all(now[what] <= then[what] for what in then)


def test_a_landing_area_stays_while_another_process_has_it_open(workers):
    data, shape = two_layers()
    gang = Gang(workers, data, shape, "rows")
    gang.run(image(shape))
    workers[0].call("drop_part", gang.keys[0])
    assert workers[0].call("held")["exported"] == 1
    workers[1].call("drop_part", gang.keys[1])
    until(lambda: not workers[0].call("held")["exported"])
    assert not any(worker.call("freed_while_open") for worker in workers)


def stop(worker):
    os.kill(worker.process.pid, signal.SIGSTOP)


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("end", ["deadline", "cancel"])
def test_a_run_that_is_over_ends_on_a_worker_whose_neighbor_does_not_answer(workers, engine, end, nodes):
    data, shape = two_layers()
    gang = Gang(workers, data, shape, "rows", NODES[nodes])
    gang.run(image(shape))
    stop(workers[1])
    try:
        flight, answers = gang.start(image(shape), 0.5 if end == "deadline" else 60)
        if end == "cancel":
            assert not wait([answers[0]], 0.3).done  # it waits for its neighbor
            workers[0].call("drop", flight)
        error = DeadlineExceededError if end == "deadline" else CancelledError
        with pytest.raises((error, GangLostError)):  # the link that did not get rid of its boxes is closed
            answers[0].result(30)
    finally:
        os.kill(workers[1].process.pid, signal.SIGCONT)
    workers[1].call("drop", flight)
    wait(answers)
    if nodes == "one node":
        check_runs(gang, data, shape, engine, 0)  # nothing of the run before is left
    gang.drop()


@pytest.mark.parametrize("nodes", NODES)
def test_a_worker_that_is_killed(workers, engine, nodes):
    """The other one ends the run, holds nothing of it, and takes part in the next network."""
    data, shape = two_layers()
    gang = Gang(workers, data, shape, "rows", NODES[nodes])
    gang.run(image(shape))
    stop(workers[1])
    flight, answers = gang.start(image(shape), 60)
    workers[1].close()
    with pytest.raises(EOFError):
        answers[1].result(30)
    workers[0].call("drop", flight)
    with pytest.raises((CancelledError, GangLostError)):
        answers[0].result(30)
    gang.drop()
    until(lambda: not any(workers[0].call("held")[what] for what in ("open", "exported", "page-locked", "mapped")))
    workers[1] = GpuProcess()
    gang = Gang(workers, data, shape, "rows", NODES[nodes])
    check_runs(gang, data, shape, engine, 0)
    gang.drop()
    assert not workers[0].call("freed_while_open")


def test_memory_that_cannot_be_page_locked_is_a_reason(workers):
    data, shape = two_layers()
    limit = workers[0].call("limit_page_locked", 0)
    with pytest.raises(AssertionError, match="page-locked"):
        Gang(workers, data, shape, "rows")
    workers[0].call("limit_page_locked", limit)
