"""`groupconv run` on images of any size: formats in and out, dtypes, samples, the plan, refusals."""

import os
import weakref

import numpy as np
import pytest
import tifffile
from fully_convolutional import Builder, unet
from onnx import TensorProto
from typer.testing import CliRunner

import groupconv
from groupconv_server import files
from groupconv_server.cli import run_stream
from groupconv_server.cli.app import app

RNG = np.random.default_rng(0)


@pytest.fixture
def run(narrow):
    def call(*arguments, code=0):
        done = CliRunner().invoke(app(), ["run", *map(str, arguments), "--target", narrow.address])
        assert done.exit_code == code, (done.output, done.exception)
        return done

    with groupconv.connect(narrow.address) as client:
        call.client = client
        yield call


def read(path):
    with files.open_input(path) as opened:
        return np.stack([opened.array[n, :, 0 : opened.array.shape[2]] for n in range(opened.array.shape[0])])


def edges(channels=3, dtype=TensorProto.FLOAT):
    """Halves the resolution; probabilities of two classes, and the class."""
    net = Builder(channels)
    if dtype != TensorProto.FLOAT:
        net.add("Cast", to=TensorProto.FLOAT)
    weight = RNG.standard_normal((2, channels, 5, 5)).astype(np.float32)
    net.add("Conv", net.constant(weight), pads=[2] * 4, strides=[2, 2])
    net.add("Sigmoid")
    classes = Builder.add(net, "ArgMax", axis=1, keepdims=0)
    proto = net.model("sigmoid" + str(len(net.nodes) - 2), dtype=dtype)
    proto.graph.output.append(type(proto.graph.output[0])(name=classes))
    proto.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    for _ in range(3):
        proto.graph.output[1].type.tensor_type.shape.dim.add()
    return proto


@pytest.mark.parametrize("output", ["y.zarr", "y.ome.tif", "y.h5:/a/b", "y.npy"])
def test_a_slide_becomes_probabilities(run, tmp_path, output):
    pixels = RNG.integers(0, 255, (310, 283, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "x.ome.tif", pixels, tile=(64, 64), photometric="rgb", metadata={"axes": "YXS"})
    options = ("--mean", "0.5,0.4,0.3", "--std", "0.2")
    with run.client.load_network("run/edges", edges()) as net:
        x = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
        x = (x - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / 0.2
        expected = net.run(x.astype(np.float32)).outputs[net.outputs[0].name]
        done = run("run/edges", tmp_path / "x.ome.tif", "-o", tmp_path / output, *options, "--progress")
        assert "windows of 1×3×" in done.stderr
        assert f"wrote {tmp_path / output}" in done.stdout
    y = read(tmp_path / output)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_a_file_as_a_network_and_classes_as_a_picture(run, tmp_path):
    pixels = RNG.integers(0, 255, (120, 97, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb")
    proto = edges(dtype=TensorProto.UINT8)
    (tmp_path / "edges.onnx").write_bytes(proto.SerializeToString())
    classes = proto.graph.output[1].name
    run(tmp_path / "edges.onnx", tmp_path / "x.tif", "-o", tmp_path / "y.png", "--select", classes)
    with run.client.load_network("run/edges8", proto) as net:
        expected = net(pixels.transpose(2, 0, 1)[None])
    np.testing.assert_array_equal(read(tmp_path / "y.png")[0, 0], expected[classes][0])
    run(tmp_path / "edges.onnx", tmp_path / "x.tif", "-o", tmp_path / "y.tif", "--dtype", "uint16", "--window-mib", 1)
    scaled = np.rint(expected[proto.graph.output[0].name].astype(np.float64) * 65535)
    np.testing.assert_array_equal(read(tmp_path / "y.tif"), scaled)
    assert run.client.list_networks() == []


def test_each_sample_by_itself(run, tmp_path):
    pixels = RNG.integers(-4, 5, (3, 70, 64)).astype(np.float32)
    np.save(tmp_path / "x.npy", pixels[:, None])
    with run.client.load_network("run/unet", _gray_unet()) as net:
        done = run("run/unet", tmp_path / "x.npy", "-o", tmp_path / "y.zarr", "--axes", "t,c,y,x", "--window-mib", "1")
        assert "for each of 3 samples" in done.stderr
        np.testing.assert_array_equal(read(tmp_path / "y.zarr"), net(pixels[:, None]))


def test_rows_of_earlier_samples_are_not_kept(run, tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Counted(run_stream.FileMap):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(run_stream, "FileMap", Counted)
    np.save(tmp_path / "x.npy", np.zeros((9, 1, 16, 16), np.float32))
    with run.client.load_network("run/kept", _gray_unet()):
        run("run/kept", tmp_path / "x.npy", "-o", tmp_path / "y.zarr", "--axes", "t,c,y,x")
    assert len(most) > 9  # one of them for the plan
    assert max(most) <= 3


@pytest.mark.parametrize("name", ["x.npy", "x.tif"])
@pytest.mark.parametrize("when", ["before its second window", "in its second window", "while its last is sent"])
def test_a_file_that_becomes_shorter_under_way(run, tmp_path, monkeypatch, name, when):
    """A view of a memory map would end the process by SIGBUS."""
    x, path, out = RNG.integers(0, 9, (1500, 600)).astype(np.float32), tmp_path / name, tmp_path / "y.npy"
    np.save(path, x) if name == "x.npy" else tifffile.imwrite(path, x)
    np.save(out, np.zeros(3))
    windows = []

    class Cut(run_stream.FileMap):
        def __getitem__(self, key):
            window = tuple(s.indices(n)[:2] for s, n in zip(key[2:], x.shape, strict=True))
            windows.append(window)
            if len(windows) == 2 and "second" in when:
                rows = sum(window[0]) // 2 if when.startswith("in") else 1
                os.truncate(path, path.stat().st_size - x.nbytes + rows * x[0].nbytes)
            part = super().__getitem__(key)
            if tuple(stop for _, stop in window) == x.shape:
                os.truncate(path, 0)
            return part

    monkeypatch.setattr(run_stream, "FileMap", Cut)
    with run.client.load_network("run/shrinks", _gray_unet()) as net:
        arguments = ("run/shrinks", path, "-o", out, "--stream", "--window-mib", "1", "--axes", "y,x")
        done = run(*arguments, code=1 if "second" in when else 0)
        if "second" not in when:
            np.testing.assert_array_equal(read(out), net(x[None, None]))
            assert len(windows) > 2
            return
    assert f"bytes in {path}, got {path.stat().st_size}: the file became shorter while it was read" in done.stderr
    assert done.stderr.count("groupconv: ") == 1
    np.testing.assert_array_equal(np.load(out), np.zeros(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "y.npy"])


def test_an_array_that_is_cut_off_is_refused(run, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1, 1, 16, 16), np.float32))
    with run.client.load_network("run/cut", _gray_unet()):
        os.truncate(path, 1000)
        assert "expected an array saved by numpy.save, got 'x.npy (" in run("run/cut", path, code=2).stderr
        assert f"expected 1152 bytes in {path}, got 1000" in run("run/cut", path, "--stream", code=2).stderr
        os.truncate(path, 0)
        assert "expected an array saved by numpy.save" in run("run/cut", path, code=2).stderr


def _gray_unet():
    net = Builder(1)
    net.convolve(2, (3, 3), pads=[1] * 4)
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.convolve(1, (2, 2), transposed=True, strides=[2, 2])
    return net.model()


def test_the_plan_alone(run, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 2, 400, 400), np.float32))
    with run.client.load_network("run/plan", unet()):
        done = run("run/plan", tmp_path / "x.npy", "--plan")
        assert "receptive field 40, step 4" in done.stderr
        assert "at a time" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resize", "8,8", "-o", "y.tif"], "--resize: expected none"),
        (["--mean", "1,2,3", "-o", "y.tif"], "--mean: expected 1 or 2 values"),
        (["-o", "y.tif", "--dtype", "words"], "--dtype: expected a dtype of numbers"),
        (["-o", "y.tif", "--axes", "t,c,y,x", "--select", "none"], "outputs: expected names of"),
    ],
)
def test_refusals(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((1, 2, 40, 40), np.float32))
    with run.client.load_network("run/refused", unet()):
        assert message in run("run/refused", "x.npy", *arguments, code=2).stderr
