"""Networks under their names: loaded, replaced, counted, refused."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import numpy as np
import pytest
from networks import LIGHT, endless, model, sum_and_difference, towers, value
from onnx import helper

from groupconv.convolution.steps import Step
from groupconv.errors import (
    CancelledError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from groupconv_server.coordinator.limits import Limits
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.store import LayerStore
from groupconv_server.layers.version import PLANS, NetworkVersion
from groupconv_server.networks.networks import COPIES, Networks
from groupconv_server.networks.store import NetworkStore
from groupconv_worker.job import Job
from waiting import until

X = np.random.default_rng(1).standard_normal((2, 4, 5, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def executor():
    executor = LocalExecutor(workers=2, threads=1)
    yield executor
    executor.close()


def networks_of(executor, *, capacity=2**30, store=None, limits=None):
    return Networks(Layers(executor.forget, capacity=capacity), executor, limits or Limits(), store)


@pytest.fixture
def networks(executor):
    return networks_of(executor)


def run(networks, name, outputs=(), **inputs):
    with networks.registry.using(name, kind=NetworkVersion) as network:
        return networks.calls.run(network, inputs, outputs, Job())


def test_a_network_is_loaded_and_run(networks):
    version = networks.load("t", towers().SerializeToString()).version
    done = run(networks, "t", x=X)
    assert done.arrays["y"].shape == (2, 6)
    assert done.report.parts[0].algorithm == "onnxruntime"
    assert done.report.coordinator_bytes == X.nbytes + done.arrays["y"].nbytes
    assert networks.registry.get("t", NetworkVersion).usage.requests == 1
    assert networks.load("t", towers(groups=1).SerializeToString()).version > version
    assert not np.array_equal(run(networks, "t", x=X).arrays["y"], done.arrays["y"])
    networks.unload("t")
    assert networks.registry.bytes == 0
    with pytest.raises(NotFoundError, match="network: there is none called 't'"):
        run(networks, "t", x=X)


def test_outputs_are_chosen_by_name(networks):
    networks.load("s", sum_and_difference().SerializeToString())
    a, b = np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32)
    assert list(run(networks, "s", a=a, b=b).arrays) == ["sum", "difference"]
    np.testing.assert_array_equal(run(networks, "s", ["difference"], a=a, b=b).arrays["difference"], a - b)
    for wanted in (["nothing"], ["sum", "sum"]):
        with pytest.raises(InvalidArgumentError, match=r"outputs\["):
            run(networks, "s", wanted, a=a, b=b)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "inputs: expected inputs called 'x'"),
        ({"x": X, "z": X}, "inputs: expected inputs called 'x'"),
        ({"x": X[0]}, r"inputs\['x'\].shape: expected 4 axes"),
        ({"x": X[:, :3]}, r"inputs\['x'\].shape\[1\]: expected 4, got 3"),
        ({"x": X[:, :, 1:]}, r"inputs\['x'\].shape\[3\]: expected 4, which axis 'size' has"),
        ({"x": X.astype(np.float64)}, r"inputs\['x'\].dtype: expected float32"),
    ],
)
def test_inputs_that_do_not_fit(networks, inputs, said):
    networks.load("t", towers().SerializeToString())
    with pytest.raises(InvalidArgumentError, match=said):
        run(networks, "t", **inputs)


def test_a_refused_model_changes_nothing(networks):
    networks.load("t", towers().SerializeToString())
    before = run(networks, "t", x=X).arrays["y"]
    odd = model([helper.make_node("Frobnicate", ["x"], ["y"])], [value("x", [1])], [value("y", [1])])
    for data in (b"hello", odd.SerializeToString()):
        with pytest.raises(InvalidArgumentError):
            networks.load("t", data)
    np.testing.assert_array_equal(run(networks, "t", x=X).arrays["y"], before)


def test_many_shapes_at_a_time(networks):
    networks.load("t", towers().SerializeToString())
    sizes = list(range(3, 3 + 2 * PLANS)) * 2

    def call(size):
        return run(networks, "t", x=np.ones((1, 4, size, size), np.float32)).arrays["y"].shape

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(call, sizes)) == {(1, 6)}


def test_a_network_whose_caller_has_gone_is_not_loaded(networks):
    with pytest.raises(CancelledError):
        networks.load("t", towers().SerializeToString(), job=Job(alive=lambda: False))
    with pytest.raises(NotFoundError):
        networks.registry.get("t", NetworkVersion)
    assert networks.registry.bytes == 0


def test_inputs_to_expect_are_checked(networks):
    with pytest.raises(InvalidArgumentError, match=r"header.inputs\[1\].inputs\['x'\].shape\[1\]"):
        networks.load("t", towers().SerializeToString(), [{"x": (1, 4, 8, 8)}, {"x": (1, 3, 8, 8)}])
    with pytest.raises(NotFoundError):
        networks.registry.get("t", NetworkVersion)


def test_layers_and_networks_share_names_and_quota(executor):
    data = towers().SerializeToString()
    networks = networks_of(executor, capacity=COPIES * len(data) + 100)
    networks.load("t", data)
    registry = networks.registry
    with registry.reserved(12) as room, pytest.raises(FailedPreconditionError, match="there is a network called 't'"):
        registry.load("t", [Step(np.ones((1, 1, 3), np.float32))], room)
    with pytest.raises(ResourceExhaustedError):
        networks.load("u", data)
    with registry.reserved(12) as room:
        registry.load("edge", [Step(np.ones((1, 1, 3), np.float32))], room)
    with pytest.raises(FailedPreconditionError, match="there is a layer called 'edge'"):
        networks.load("edge", data)
    assert [layer.name for layer in registry.all()] == ["edge"]
    assert [network.name for network in registry.all(NetworkVersion)] == ["t"]
    with pytest.raises(NotFoundError, match="there is a layer, and no network"):
        registry.get("edge", NetworkVersion)


def test_shapes_of_inputs_without_free_axes_may_be_left_out(networks):
    proto = model(
        [helper.make_node("Min", ["x", "limit"], ["y"])], [value("x", ["n"]), value("limit", [])], [value("y", ["n"])]
    )
    networks.load("t", proto.SerializeToString(), [{"x": (5,)}])
    assert networks.plan("t", {"x": (7,)}).nodes[0].shape == (7,)
    with pytest.raises(InvalidArgumentError, match="none called x"):
        networks.plan("t", {"limit": ()})


def test_weights_that_a_model_computes_are_counted(executor):
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["c"], "large"), helper.make_node("Add", ["x", "c"], ["y"])]
    proto = model(nodes, [value("x", [1])], [value("y", [1 << 20])], {"shape": np.array([1 << 20], np.int64)})
    networks = networks_of(executor, capacity=2**22)
    with pytest.raises(ResourceExhaustedError, match="do not fit"):
        networks.load("t", proto.SerializeToString())


def test_tensors_over_the_limit_are_refused(executor):
    networks = networks_of(executor, limits=Limits(tensor_bytes=1000))
    networks.load("t", towers().SerializeToString())
    with pytest.raises(ResourceExhaustedError, match="Conv 'conv'"):
        run(networks, "t", x=X)


def test_an_executor_that_ends_ends_its_calls():
    executor = LocalExecutor(workers=1, threads=1)
    networks = networks_of(executor)
    networks.load("loop", endless().SerializeToString())
    failed = []

    def call():
        try:
            run(networks, "loop", x=np.ones(4, np.float32))
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    caller = Thread(target=call)
    caller.start()
    executor.interrupt()
    caller.join(30)
    executor.close()
    assert [type(error).__name__ for error in failed] == ["UnavailableError"]


def test_networks_are_there_after_a_restart(executor, tmp_path):
    layers = LayerStore(tmp_path)
    networks = networks_of(executor, store=NetworkStore(layers))
    version = networks.load("ocr/t", towers().SerializeToString()).version
    networks.load("gone", towers().SerializeToString())
    networks.unload("gone")
    before = run(networks, "ocr/t", x=X).arrays["y"]
    left = tmp_path / "networks" / "cut-short.part"
    left.write_bytes(b"half of a model")
    again = networks_of(executor, store=NetworkStore(layers))
    assert not left.exists()
    again.restore()
    assert [n.name for n in again.registry.all(NetworkVersion)] == ["ocr/t"]
    assert again.registry.get("ocr/t", NetworkVersion).version == version
    np.testing.assert_array_equal(run(again, "ocr/t", x=X).arrays["y"], before)
    layers.close()


@pytest.mark.parametrize("damage", ["model", "json", "version"])
def test_a_damaged_network_is_left_alone(executor, tmp_path, caplog, damage):
    layers = LayerStore(tmp_path)
    networks = networks_of(executor, store=NetworkStore(layers))
    networks.load("a", towers().SerializeToString())
    networks.load("b", towers().SerializeToString())
    folder = tmp_path / "networks"
    victim = next(folder.glob("a-*.onnx" if damage == "model" else "a-*.json"))
    text = victim.read_bytes()
    victim.write_bytes(text.replace(b'"version": ', b'"version": -') if damage == "version" else text[:-9])
    again = networks_of(executor, store=NetworkStore(layers))
    again.restore()
    assert [n.name for n in again.registry.all(NetworkVersion)] == ["b"]
    assert "was not loaded" in caplog.text
    assert victim.exists()
    layers.close()


@pytest.mark.ray
def test_a_killed_worker_costs_no_answer(ray_executor):
    networks = networks_of(ray_executor)
    data = (LIGHT / "light_squeezenet.onnx").read_bytes()
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    networks.load("squeezenet", data)
    first, answers, failed = run(networks, "squeezenet", data_0=x).arrays["softmaxout_1"], [], []

    def call():
        try:
            answers.extend(run(networks, "squeezenet", data_0=x).arrays["softmaxout_1"] for _ in range(12))
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    callers = [Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    until(lambda: len(answers) > 2 or failed)
    victim = ray_executor.membership.ready()[0]
    os.kill(victim.facts["pid"], signal.SIGKILL)
    for caller in callers:
        caller.join()
    assert not failed
    assert len(answers) == 36
    assert all(np.array_equal(answer, first) for answer in answers)
    until(lambda: len(ray_executor.workers()) == 2)
    networks.unload("squeezenet")
