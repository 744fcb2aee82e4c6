"""Streams through networks, from one end to the other: both clients, all kinds of sources and sinks, faults."""

import asyncio
import contextlib
import os
from dataclasses import replace

import numpy as np
import onnx
import psutil
import pytest
from fully_convolutional import Builder, image, unet
from networks import towers

import groupconv
from groupconv.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from groupconv_server.config import Config
from groupconv_server.server import Server

X = image((1, 2, 203, 150))


@pytest.fixture(scope="module")
def near(narrow):
    with groupconv.connect(narrow.address, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def net(near):
    return near.load_network("stream/unet", unet(crop=True))


@pytest.fixture(scope="module")
def expected(net):
    return net(X)


def test_arrays_bands_and_samples(near, net, expected, tmp_path):
    plan = near.plan_stream(net, X, window_bytes=1_800_000)
    assert plan.count > 10
    assert plan.in_flight == 3  # a window for each worker, and one on its way
    assert plan.window_bytes < plan.stream_bytes <= 6 * 2**20
    seen = []
    y = near.stream_network(net, X, progress=seen.append, window_bytes=1_800_000)
    np.testing.assert_array_equal(y, expected)
    assert len(seen) == plan.count
    assert [(p.rows, p.of) for p in seen] == [(i + 1, len(seen)) for i in range(len(seen))]
    assert seen[-1].received == expected.nbytes
    np.testing.assert_array_equal(near.stream_network("stream/unet", X[0].astype(np.float64)), expected[0])
    bands = (X[:, :, i : i + 17] for i in range(0, 203, 17))
    np.testing.assert_array_equal(near.stream_network(net, bands, shape=X.shape, dtype=X.dtype), expected)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, expected.shape)
    assert near.stream_network(net, np.asfortranarray(X), out=out) is out
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(InvalidArgumentError, match="out: expected an array apart from the input"):
        near.stream_network(net, X, out=X)
    two = near.stream_network(net, np.concatenate([X, -X]), window_bytes=1_000_000)
    np.testing.assert_array_equal(two[:1], expected)


def test_files_of_numpy(near, net, expected, tmp_path):
    np.save(tmp_path / "x.npy", X)
    with (
        groupconv.open_npy(tmp_path / "x.npy") as x,
        groupconv.create_npy(tmp_path / "y.npy", expected.shape) as y,
    ):
        assert near.stream_network(net, x, out=y, window_bytes=1_800_000) is y
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
        os.truncate(tmp_path / "x.npy", X.nbytes // 2)
        with pytest.raises(DataLossError, match=r"x\.npy, got 121800: the file became shorter while it was read"):
            near.stream_network(net, x, out=y, window_bytes=1_800_000)


class SpatialMean:
    """A sink that adds up what it gets, as docs/network-streams.md has it."""

    def __init__(self, shape):
        self.shape, self.dtype, self.total = shape, np.dtype(np.float32), np.zeros(shape[:2])

    def __setitem__(self, place, part):
        self.total += part.sum((2, 3), dtype=np.float64)


def test_a_global_pool_by_hand(near):
    """Two networks, one before and one behind the pool, give what the whole one does."""
    x, proto = image((1, 4, 203, 150)), towers(size=None)
    whole = near.load_network("stream/towers", proto)(x)
    with pytest.raises(InvalidArgumentError, match="GlobalAveragePool"):
        near.plan_stream("stream/towers", x)
    cut = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(proto))
    with (
        near.load_network("stream/body", cut.extract_model(["x"], ["r"])) as body,
        near.load_network("stream/head", cut.extract_model(["p"], ["y"])) as head,
    ):
        plan = near.plan_stream(body, x, window_bytes=300_000)
        assert plan.count > 10
        mean = near.stream_network(body, x, out=SpatialMean(plan.outputs[0].shape), window_bytes=300_000)
        found = head((mean.total / (203 * 150)).astype(np.float32)[:, :, None, None])
    np.testing.assert_allclose(found, whole, rtol=1e-5)
    near.unload_network("stream/towers")


def test_the_awaiting_client(narrow, expected):
    async def main():
        async with groupconv.aio.connect(narrow.address) as client:
            plan = await client.plan_stream("stream/unet", X, window_bytes=1_800_000)
            bar = []
            y = await client.stream_network("stream/unet", X, progress=bar.append, window_bytes=1_800_000)
            with pytest.raises(InvalidArgumentError, match="4 axes"):
                await client.stream_network("stream/unet", X[0, 0])
            return y, len(bar) == plan.count

    y, whole = asyncio.run(main())
    np.testing.assert_array_equal(y, expected)
    assert whole


def test_two_maps_a_number_and_two_outputs(near):
    from networks import model, value
    from onnx import TensorProto, helper

    net = Builder(1)
    net.convolve(1, (3, 3), pads=[1] * 4, strides=[2, 2])
    nodes = [
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("MaxPool", ["m"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Add", [net.last, "pooled"], ["sum"]),
        helper.make_node("Mul", ["sum", "factor"], ["scaled"]),
    ]
    shape = ["N", 1, None, None]
    inputs = [value("x", shape), value("mask", shape, TensorProto.UINT8), value("factor", [])]
    proto = model([*net.nodes, *nodes], inputs, [value("scaled", shape), value("sum", shape)], net.weights)
    x, mask = image((1, 1, 202, 300)), image((1, 1, 202, 300), 3).astype(np.int8).view(np.uint8)
    with near.load_network("stream/two", proto) as net:
        given = {"x": x, "mask": mask, "factor": np.float32(3)}
        expected = net.run(inputs=given).outputs
        out = {"sum": np.empty((1, 1, 101, 150), np.float32)}
        found = near.stream_network(net, given, out=out, window_bytes=300_000)
        assert found["sum"] is out["sum"]
        assert list(found) == ["scaled", "sum"]
        for name, y in expected.items():
            np.testing.assert_array_equal(found[name], y)
        only = near.stream_network(net, given, outputs=["sum"], window_bytes=300_000)
        np.testing.assert_array_equal(only, expected["sum"])
        with pytest.raises(InvalidArgumentError, match=r"inputs\['mask'\].shape\[3\]: expected 300"):
            near.stream_network(net, given | {"mask": mask[..., 1:]})
        with pytest.raises(InvalidArgumentError, match="a mapping with 'scaled', 'sum'"):
            near.stream_network(net, given, out=out["sum"])


def test_wrong_arguments(near, net):
    with pytest.raises(InvalidArgumentError, match=r"out: expected shape \(1, 1, 200, 148\) and dtype float32"):
        near.stream_network(net, X, out=np.empty((1, 1, 203, 150), np.float32))
    with pytest.raises(InvalidArgumentError, match="shape and dtype, for an iterator"):
        near.stream_network(net, iter([X]))
    with pytest.raises(InvalidArgumentError, match="shape: expected the shape of all bands together, got 5"):
        near.stream_network(net, iter([X]), shape=5, dtype=X.dtype)
    with pytest.raises(InvalidArgumentError, match="dtype: expected a dtype of numbers, got 'words'"):
        near.stream_network(net, iter([X]), shape=X.shape, dtype="words")
    with pytest.raises(InvalidArgumentError, match=r"expected bands of 203 rows in all, got '150 rows'"):
        near.stream_network(net, iter([X[:, :, :150]]), shape=X.shape, dtype=X.dtype)
    with pytest.raises(InvalidArgumentError, match="dtype: expected float32, got 'complex64'"):
        near.stream_network(net, X.astype(np.complex64))
    with pytest.raises(InvalidArgumentError, match="did you mean window_bytes"):
        near.stream_network(net, X, window_byte=3)
    with pytest.raises(ResourceExhaustedError, match=r"the smallest window takes .*--network-stream-mib"):
        near.stream_network(net, X, window_bytes=1000)
    with pytest.raises(NotFoundError):
        near.stream_network("stream/none", X)


def test_a_network_that_is_replaced_under_way_leaves_no_seam(near):
    net = near.load_network("stream/replaced", unet(crop=True))

    def replace(progress):
        if progress.rows == 1:
            near.load_network("stream/replaced", unet(levels=2, crop=True))

    with pytest.raises(FailedPreconditionError, match="is gone"):
        near.stream_network(net, X, progress=replace)


def test_an_error_of_the_source_ends_the_stream(near, net):
    def bands():
        yield X[:, :, :120]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        near.stream_network(net, bands(), shape=X.shape, dtype=X.dtype)


def test_a_stream_goes_on_after_the_server_was_restarted(tmp_path):
    config = Config(port=0, executor="local", workers=1, threads=1, layer_dir=tmp_path, grace=0.1)
    servers = contextlib.ExitStack()
    address = servers.enter_context(Server(config)).address
    seen = []

    def restart(progress):
        seen.append(progress)
        if progress.rows == 2:
            servers.close()
            servers.enter_context(Server(replace(config, port=int(address.rpartition(":")[2]))))

    with servers, groupconv.connect(address, timeout=60) as client:
        net = client.load_network("stream/restarted", unet(crop=True))
        y = client.stream_network(net, X, window_bytes=1_800_000, progress=restart)
        assert len(seen) == seen[-1].of > 5
        np.testing.assert_array_equal(y, net(X))


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_window():
    with (
        Server(Config(port=0, executor="ray", workers=2, threads=1)) as server,
        groupconv.connect(server.address, timeout=120) as client,
    ):
        net = client.load_network("stream/killed", unet(crop=True))
        x = image((1, 2, 1203, 901))
        killed = []

        def kill(progress):
            if progress.rows == 3:
                children = psutil.Process().children(recursive=True)
                worker = next(child for child in children if child.name() == "ray::Worker")
                worker.kill()
                killed.append(worker.pid)

        y = client.stream_network(net, x, window_bytes=6_000_000, progress=kill)
        assert killed
        np.testing.assert_array_equal(y, net(x))
