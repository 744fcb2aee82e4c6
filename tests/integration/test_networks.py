"""Networks as users call them: both clients, several outputs, a killed worker, a restart, the command line."""

import asyncio
import re
import subprocess
import sys

import grpc
import numpy as np
import pytest
from networks import LIGHT, constant, endless, pixels_to_means, sum_and_difference, towers
from onnx import TensorProto
from PIL import Image

import groupconv
from groupconv.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from groupconv.v1 import network_pb2

X = np.random.default_rng(1).standard_normal((2, 4, 9, 9)).astype(np.float32)


def expected(x):
    """What `towers` gives, by the float64 reference."""
    weights = {tensor.name: np.frombuffer(tensor.raw_data, np.float32) for tensor in towers().graph.initializer}
    w, b = weights["w"].reshape(6, 2, 3, 3).astype(np.float64), weights["b"].astype(np.float64)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(x), 6, *x.shape[2:]))
    for m in range(6):
        for c in range(2):
            for i in range(3):
                for j in range(3):
                    out[:, m] += w[m, c, i, j] * padded[:, m // 3 * 2 + c, i : i + x.shape[2], j : j + x.shape[3]]
    return np.maximum(out + b[:, None, None], 0).mean((2, 3))


def test_a_network_is_called_like_a_function(client):
    with client.load_network("net/towers", towers(), inputs=[{"x": X.shape}]) as net:
        assert net.inputs[0].shape == ("N", 4, "size", "size")
        np.testing.assert_allclose(net(X), expected(X), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(net(x=X.astype(np.float64)), expected(X), rtol=1e-5, atol=1e-6)
        result = net.run(X)
        assert result.report.parts[0].nodes == 4
        assert result.report.worker.startswith("local-")
        assert "onnxruntime" in str(result.report)
        plan = net.plan(X.shape)
        assert [node.op for node in plan.nodes] == ["Conv", "Relu", "GlobalAveragePool", "Flatten"]
        assert net.statistics().requests == 3
        assert [info.name for info in client.list_networks()] == ["net/towers"]
        y = net(X)
        y += 1  # the caller's own
        two = client.load_network("net/two", sum_and_difference())(X[0, 0], X[0, 0])
        two["sum"] += 1
        client.unload_network("net/two")
        assert "net/towers" in repr(client.get_network("net/towers"))
    with pytest.raises(NotFoundError):
        client.get_network("net/towers")


def test_progress_tells_how_much_of_a_model_is_sent(client, server, capsys):
    data, seen = towers().SerializeToString(), []
    with client.load_network("net/towers", data, progress=seen.append):
        assert [p.rows for p in seen] == sorted(p.rows for p in seen)
        assert (seen[-1].rows, seen[-1].of, seen[-1].received) == (len(data),) * 3

    async def load():
        async with groupconv.aio.connect(server.address) as other:
            await other.load_network("net/towers", data, progress=True)

    asyncio.run(load())
    assert "100%" in capsys.readouterr().err
    with pytest.raises(InvalidArgumentError, match="progress"):
        client.load_network("net/towers", data, progress="yes")
    client.unload_network("net/towers")


def test_a_model_may_come_in_parts_of_any_size(client, server):
    model = towers()
    model.doc_string = "x" * 300_000
    rest = model.SerializeToString()
    parts = [network_pb2.LoadNetworkRequest(header={"name": "parts", "byte_size": len(rest)})]
    for size in (1, 2**16, 7, 5, 100_000, 2**16 - 1):
        parts.append(network_pb2.LoadNetworkRequest(chunk=rest[:size]))
        rest = rest[size:]
    parts.append(network_pb2.LoadNetworkRequest(chunk=rest))
    with grpc.insecure_channel(server.address) as channel:
        load = channel.stream_unary("/groupconv.v1.NetworkService/LoadNetwork")
        load(message.SerializeToString() for message in parts)
    with client.get_network("parts") as net:
        np.testing.assert_allclose(net(X), expected(X), rtol=1e-5, atol=1e-6)


def test_several_inputs_and_outputs(client):
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    with client.load_network("net/two", sum_and_difference().SerializeToString()) as net:
        outputs = net(a, b=b)
        assert list(outputs) == ["sum", "difference"]
        np.testing.assert_array_equal(outputs["difference"], a - b)
        only = net.run(inputs={"a": a, "b": b}, outputs=["sum"]).outputs
        assert list(only) == ["sum"]
        with pytest.raises(InvalidArgumentError, match="'a' once"):
            net(a, a=a)
        with pytest.raises(InvalidArgumentError, match="at most 2 arrays"):
            net(a, a, a)
        with pytest.raises(InvalidArgumentError, match=r"expected 2, which axis 'rows' has"):
            net(a, b[:1])


def test_the_awaiting_client(server):
    async def main():
        async with groupconv.aio.connect(server.address) as client:
            async with await client.load_network("net/aio", towers()) as net:
                first, second = await asyncio.gather(net(X), net(X[:1]))
                np.testing.assert_allclose(first, expected(X), rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(second, expected(X[:1]), rtol=1e-5, atol=1e-6)
                assert (await net.run(X)).report.parts
                assert (await net.plan(X.shape)).multiply_adds
                assert (await net.statistics()).requests == 3
            assert not await client.list_networks()

    asyncio.run(main())


def test_a_network_without_inputs(client):
    with client.load_network("net/constant", constant()) as net:
        np.testing.assert_array_equal(net(), [1, 2, 3])


def test_what_a_client_may_give(client, tmp_path):
    path = tmp_path / "t.onnx"
    path.write_bytes(towers().SerializeToString())
    for model in (path, str(path), path.read_bytes(), towers()):
        with client.load_network("net/given", model) as net:
            assert net(X).shape == (2, 6)
    with pytest.raises(InvalidArgumentError, match="expected a path, bytes or an onnx"):
        client.load_network("net/given", 3)
    with pytest.raises(FileNotFoundError):
        client.load_network("net/given", tmp_path / "none.onnx")
    with pytest.raises(InvalidArgumentError, match="model: expected an ONNX model"):
        client.load_network("net/given", b"PK\x03\x04")
    with pytest.raises(InvalidArgumentError, match="name"):
        client.load_network("net//given", towers())


def test_names_are_shared_with_layers(client):
    layer = client.load_layer("net/name", np.ones((1, 1, 3), np.float32))
    with layer, pytest.raises(FailedPreconditionError, match="there is a layer called"):
        client.load_network("net/name", towers())
    with client.load_network("net/name", towers()), pytest.raises(FailedPreconditionError, match="there is a network"):
        client.load_layer("net/name", np.ones((1, 1, 3), np.float32))


def test_a_deadline_ends_a_call(client):
    with client.load_network("net/endless", endless()) as net:
        with pytest.raises(DeadlineExceededError):
            net.run(np.ones(4, np.float32), timeout=0.5)
        with client.load_network("net/after", towers()) as other:  # its thread is free again
            assert other(X).shape == (2, 6)


def test_an_answer_over_the_limit_is_refused_before_it_is_made(client):
    with client.load_network("net/large", sum_and_difference()) as net:
        a, b = np.ones((1024, 1024), np.float32), np.ones((1024, 1), np.float32)
        with pytest.raises(ResourceExhaustedError, match="do not fit an answer"):
            net(a, b)
        assert net.run(a, b, outputs=["sum"]).outputs["sum"].nbytes == a.nbytes


def command(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "groupconv_server", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_the_commands(server, tmp_path):
    target = ("--target", server.address)
    path = tmp_path / "towers.onnx"
    path.write_bytes(towers(size=8).SerializeToString())
    done = command("networks", "load", path, "--name", "cli/towers", "--input", "x=1,4,8,8", *target)
    assert done.returncode == 0, done.stderr
    assert "cli/towers, version" in done.stdout
    assert "cli/towers" in command("networks", "list", *target).stdout
    shown = command("networks", "show", "cli/towers", *target).stdout
    assert "input  x: float32 (N, 4, 8, 8)" in shown
    assert "networks show cli/towers --input x=" in shown  # the batch is free
    picture = tmp_path / "towers.svg"
    shown = command("networks", "show", "cli/towers", "--input", "x=1,4,8,8", "--picture", picture, *target)
    assert re.search(r"conv +Conv +3×3, 2 groups +1×6×8×8 +114 +6,912 +100.0% +3×3 +1×1 +onnxruntime", shown.stdout), (
        shown.stderr
    )
    assert "<!-- Conv → Relu" in picture.read_text()
    for args, message in (
        (("--picture", picture), "--input: expected x=N,C,H,W"),
        (("--input", "x=1,4,8,8", "--picture", tmp_path / "towers.txt"), "--picture: expected a file name that ends"),
    ):
        assert message in command("networks", "show", "cli/towers", *args, *target).stderr
    planned = command("networks", "plan", "cli/towers", "--input", "x=1,4,8,8", *target)
    assert "Conv" in planned.stdout, planned.stderr
    refused = command("networks", "plan", "cli/towers", *target)
    assert refused.returncode == 2
    assert "--input: expected x=" in refused.stderr
    np.save(tmp_path / "x.npy", X[:1, :, :8, :8])
    ran = command("run", "cli/towers", tmp_path / "x.npy", "-o", tmp_path / "y.npy", *target)
    assert ran.returncode == 0, ran.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected(X[:1, :, :8, :8]), rtol=1e-5, atol=1e-6)
    assert command("networks", "unload", "cli/*", *target).stdout == "cli/towers is unloaded\n"


def test_a_picture_through_a_file_of_a_network(server, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    (tmp_path / "labels.txt").write_text("\n".join(f"class {i}" for i in range(1000)))
    done = command(
        "run", LIGHT / "light_squeezenet.onnx", tmp_path / "cat.png", "--labels", tmp_path / "labels.txt",
        "--mean", "0.5,0.5,0.5", "--std", "0.25", "--target", server.address,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^class (\d+) +(0\.\d+|\d\.\d+e-\d+)$", done.stdout, re.MULTILINE)
    assert len(found) == 5
    assert [float(value) for _, value in found] == sorted((float(value) for _, value in found), reverse=True)
    assert "nodes by onnxruntime" in done.stdout
    wrong = LIGHT / "light_squeezenet.onnx"
    refused = command("run", wrong, wrong, "--target", server.address)
    assert refused.returncode == 2
    assert refused.stderr == f"groupconv: data_0: expected a picture or an array (.npy), got {str(wrong)!r}\n"


PIXELS = np.random.default_rng(2).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def means_of(pixels):
    """What `pixels_to_means` gives, in float64."""
    x = pixels.transpose(2, 0, 1)[None] / 255
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    weight = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)
    return np.einsum("nchwij,mcij->nm", windows, weight.astype(np.float64)) / np.prod(windows.shape[2:4])


def test_pixels_travel_as_uint8(client):
    with client.load_network("net/pixels", pixels_to_means()) as net:
        x = PIXELS.transpose(2, 0, 1)[None]
        wanted = means_of(PIXELS)
        for cut in ("nothing", "rows"):  # by our program, too
            result = net.run(x, cut=cut, timeout=300)
            np.testing.assert_allclose(result.outputs["means"], wanted, rtol=1e-5)
            assert result.report.cut == cut
            assert result.report.coordinator_bytes <= 1.05 * (x.size + 8)
        with pytest.raises(InvalidArgumentError, match=r"inputs\['image'\].dtype: expected uint8"):
            net(x.astype(np.float32))


@pytest.mark.parametrize("dtype", [TensorProto.UINT8, TensorProto.INT32])
def test_a_network_of_integers_gets_the_pixels_of_a_picture(server, client, tmp_path, dtype):
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(path)
    with client.load_network("cli/pixels", pixels_to_means(dtype)):
        done = command("run", "cli/pixels", path, "-o", tmp_path / "y.npy", "--target", server.address)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), means_of(PIXELS), rtol=1e-5)
        refused = command("run", "cli/pixels", path, "--mean", "0.5", "--target", server.address)
        assert "--mean, --std: expected none, as the network takes" in refused.stderr
    with client.load_network("cli/pixels", pixels_to_means(TensorProto.INT8)):
        refused = command("run", "cli/pixels", path, "--target", server.address)
        assert "expected an array (.npy), as the network takes image: int8" in refused.stderr
