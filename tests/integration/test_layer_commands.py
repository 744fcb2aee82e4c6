"""`groupconv layers` against a server that keeps its layers on disk."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import groupconv
from groupconv_server.cli.app import app
from groupconv_server.config import Config
from groupconv_server.server import Server

RNG = np.random.default_rng(5)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    with Server(Config(port=0, executor="local", threads=1, engine="reference", layer_dir=folder)) as server:
        yield server


@pytest.fixture
def run(serving):
    def run(*arguments, code=0):
        command = ["layers", *map(str, arguments)]
        if not {"--help", "--target"} & set(arguments):
            command += ["--target", serving.address]
        done = CliRunner().invoke(app(), command, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture
def model(tmp_path):
    weights = {"w1": f32(6, 3, 3, 3), "b1": f32(6), "w2": f32(6, 1, 2, 2), "w3": f32(2, 6, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="/stem/Conv", strides=[2, 2], auto_pad="SAME_UPPER"),
        helper.make_node("ConvTranspose", ["a", "w2"], ["b"], name="/up/ConvTranspose", group=6, strides=[2, 2]),
        helper.make_node("Conv", ["b", "a"], ["c"], name="/computed/Conv"),
        helper.make_node("Conv", ["c", "w3"], ["y"], name="/head/Conv"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
    tensors = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    made = helper.make_model(helper.make_graph(nodes, "net", [x], [y], tensors))
    path = tmp_path / "net.onnx"
    onnx.save(made, path)
    return path


def test_an_onnx_file_becomes_layers_that_are_shown_used_and_unloaded(serving, run, model):
    done = run("load", model, code=1)  # one cannot be loaded; the others are
    assert "net/computed/Conv was not loaded: kernel: expected a constant" in done.stderr
    assert "net/up/ConvTranspose" in done.stdout
    listed = json.loads(run("list", "--json").stdout)
    assert [i["name"] for i in listed] == ["net/head/Conv", "net/stem/Conv", "net/up/ConvTranspose"]
    shown = run("show", "net/stem/Conv").stdout
    assert "6×3×3×3" in shown
    assert "stride=(2, 2) padding=same" in shown
    with groupconv.connect(serving.address, timeout=60) as client:
        assert client.get_layer("net/stem/Conv")(f32(1, 3, 9, 9)).shape == (1, 6, 5, 5)
    (row,) = json.loads(run("statistics", "net/stem/Conv", "--json").stdout)
    assert (row["requests"], row["samples"]) == (1, 1)
    assert "net/stem/Conv" in run("statistics").stdout
    assert run("unload", "net/*").stdout.count("is unloaded") == 3
    assert "no layers are loaded" in run("list").stdout
    assert [path.name for path in serving.config.layer_dir.iterdir()] == [".lock"]


def test_a_dry_run_asks_no_server(run, model):
    done = run("load", model, "--only", "*stem*", "--prefix", "mine", "--dry-run", "--target", "localhost:1")
    assert "mine/stem/Conv" in done.stdout
    assert "up" not in done.stdout


def test_a_kernel_from_a_file(serving, run, tmp_path):
    w, b = f32(4, 1, 3), f32(4)
    np.save(tmp_path / "w.npy", w)
    np.save(tmp_path / "b.npy", b)
    run("load", tmp_path / "w.npy", "--name", "edge", "--bias", tmp_path / "b.npy", "--padding", "same", "--groups", 4)
    x = f32(2, 4, 7)
    with groupconv.connect(serving.address, timeout=60) as client:
        want = client.conv1d(x, w, b, padding="same", groups=4)
        np.testing.assert_allclose(client.get_layer("edge")(x), want, rtol=1e-5, atol=1e-5)
    run("unload", "edge")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "none"), 1, "none called 'none'"),
        (("unload", "none"), 1, "none called 'none'"),
        (("unload", "none*"), 1, "no layer is loaded whose name fits 'none*'"),
        (("load", __file__), 2, "an ONNX model"),
    ],
)
def test_failures_are_one_line(run, arguments, code, said):
    done = run(*arguments, code=code)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["list", "load", "unload", "show", "statistics"])
def test_help_has_examples(run, command):
    assert f"$ groupconv layers {command}" in run(command, "--help").stdout


def test_any_file_and_node_name_is_made_one_of_a_layer(run, tmp_path, model):
    file = model.rename(tmp_path / "my model (1).onnx")
    done = run("load", file, code=1)
    assert "my_model__1_/stem/Conv" in done.stdout
    assert "my_model__1_/computed/Conv was not loaded: kernel: expected a constant" in done.stderr
    run("unload", "my_model__1_/*")


def test_a_layer_that_the_server_refuses_does_not_end_the_others(tmp_path, model):
    config = Config(port=0, executor="local", threads=1, engine="reference", layer_bytes=600)  # less than the stem's
    with Server(config) as small:
        done = CliRunner().invoke(app(), ["layers", "load", str(model), "--target", small.address])
    assert done.exit_code == 1
    assert "net/stem/Conv was not loaded: " in done.stderr
    assert "net/up/ConvTranspose" in done.stdout
    assert "net/head/Conv" in done.stdout
