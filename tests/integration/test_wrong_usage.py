"""Every sub-command with wrong input: one line, exit code 2 for wrong usage and 1 for what failed, no traceback."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from groupconv_server.cli.app import app

USAGE, FAILED = 2, 1
CASES = {
    "": (USAGE, ["Usage: groupconv"]),
    "nonsense": (USAGE, ["No such command 'nonsense'"]),
    "--log-level loud status": (USAGE, ["expected one of DEBUG"]),
    "serve --port 99999": (USAGE, ["--port"]),
    "serve --workers many": (USAGE, ["workers"]),
    "serve --port 0 --host 0.0.0.0": (USAGE, ["--insecure"]),
    "serve --port 0 --tls-cert {text}": (USAGE, ["--tls-key"]),
    "serve --port 0 --tokens {missing}": (FAILED, ["missing.npy: No such file"]),
    "worker": (USAGE, ["--join"]),
    "worker --join coordinator": (USAGE, ["host:port"]),
    "worker --join x:1 --log-format xml": (USAGE, ["--log-format"]),
    "demo --photo {missing}": (USAGE, ["--photo"]),
    "demo --photo {text} --executor local": (USAGE, ["an image file"]),
    "demo --output {folder}/x.txt --executor local": (USAGE, ["--output"]),
    "demo --executor cloud": (USAGE, ["executor"]),
    "conv": (USAGE, ["INPUT"]),
    "conv {missing} -k sobel-x -o {out}": (USAGE, ["missing.npy: "]),
    "conv {array} -k {missing} -o {out}": (USAGE, ["missing.npy: No such file or directory"]),
    "conv {array} -k {complex} -o {out}": (USAGE, ["kernel.dtype: expected bool, integers or floats, got 'complex64'"]),
    "conv {array} -k {words} -o {out}": (USAGE, ["kernel.dtype"]),
    "conv {array} -k {records} -o {out}": (USAGE, ["kernel.dtype"]),
    "conv {array} -k gaussian:1 -o {out} --truncate inf": (USAGE, ["--truncate"]),
    "conv {array} -k gaussian:1 -o {out} --truncate 1e9": (USAGE, ["--truncate"]),
    "conv {array} -k gaussian:1 -o {out} --timeout inf": (
        USAGE,
        ["timeout: expected at most 100000000 seconds, or None"],
    ),
    "status --timeout 1e300": (USAGE, ["--timeout"]),
    "conv {text} -k sobel-x -o {out}": (USAGE, []),
    "conv {array} -k nonsense -o {out}": (USAGE, ["nonsense"]),
    "conv {array} -k gaussian:x -o {out}": (USAGE, []),
    "conv {array} -k sobel-x -o {out} --stride 0": (USAGE, ["--stride"]),
    "conv {array} -k sobel-x -o {out} --dtype words": (USAGE, ["dtype"]),
    "conv {array} -k sobel-x -o {out} --padding-mode round": (USAGE, ["padding_mode"]),
    "conv {array} -k sobel-x -o {folder}/out.what": (USAGE, []),
    "run": (USAGE, []),
    "run nothing {array}": (FAILED, ["nothing"]),
    "run {missing}.onnx {array}": (USAGE, []),
    "run {text} {array}": (FAILED, ["network"]),
    "run x {array} --resize 3": (USAGE, ["--resize"]),
    "run x {array} -o {folder}/y.what": (USAGE, [".png", "y.what"]),
    "run x {array} -o {folder}/none/y.png": (USAGE, ["a folder that exists"]),
    "run x {array} --labels {missing}": (USAGE, ["--labels"]),
    "plan": (USAGE, ["--layer"]),
    "plan --layer foo": (USAGE, ["expected one of alexnet_conv1"]),
    "plan --input 1,2,3 --kernel a,b": (USAGE, ["--kernel"]),
    "plan --input 1,4,9,9 --kernel 4,4,3,3 --groups 3 --workers 2": (USAGE, ["groups"]),
    "plan --input 1,4,9,9 --kernel 4,4,3,3 --padding wide --workers 2": (USAGE, ["padding"]),
    "plan --input 1,4,9,9 --kernel 4,4,3,3 --stride 0 --workers 2": (USAGE, ["stride"]),
    "plan --input ,, --kernel ,": (USAGE, ["--input"]),
    "plan --layer alexnet_conv2 --workers 0": (USAGE, ["--workers"]),
    "plan --layer alexnet_conv2 --speeds 1,x": (USAGE, ["--speeds"]),
    "plan --layer alexnet_conv2 --speeds nan": (USAGE, ["--speeds"]),
    "plan --layer alexnet_conv2 --workers 2 --cut sideways": (USAGE, ["cut"]),
    "plan --layer alexnet_conv2 --workers 2 --cut width": (USAGE, ["cut"]),
    "plan --layer alexnet_conv2 --cut channel": (USAGE, ["allow_reordering"]),
    "plan --layer alexnet_conv2 --workers 2 --dtype float31": (USAGE, ["--dtype"]),
    "plan --layer alexnet_conv2 --dtype float31": (USAGE, ["dtype"]),
    "plan --layer alexnet_conv2 --workers 2 --picture {folder}/x.gif": (USAGE, ["--picture"]),
    "plan --layer alexnet_conv2 --workers 2 --picture {array}/x.png": (FAILED, []),
    "plan --layer alexnet_conv2 --workers 2 --link nan": (USAGE, ["--link"]),
    "status -t 127.0.0.1:1 --timeout 0.5": (FAILED, []),
    "status -t {{}}": (FAILED, ["the host name is unknown"]),
    "status -t localhost:http": (FAILED, ["the port is not a number"]),
    "health -t localhost:70000": (FAILED, ["the port is not a number"]),
    "status --every 0": (USAGE, ["--every"]),
    "status --timeout x": (USAGE, ["--timeout"]),
    "status --token-file {missing}": (USAGE, ["--token-file"]),
    "status --token-file {empty}": (USAGE, ["--token-file"]),
    "status --token-file /dev/zero": (USAGE, ["--token-file: expected a token of at most 1 MiB"]),
    "status --token-file {binary}": (USAGE, []),
    "status --ca /dev/zero": (USAGE, ["a PEM file of at most 1 MiB"]),
    "layers load /dev/zero": (USAGE, ["an ONNX model below 2 GiB"]),
    "token hash /dev/zero": (USAGE, []),
    "status --ca {text}": (USAGE, ["PEM"]),
    "status --cert {text}": (USAGE, []),
    "health -t 127.0.0.1:1": (FAILED, ["no server accepts connections there"]),
    "health --service nothing": (FAILED, ["groupconv.v1.ConvolutionService", "got 'nothing'"]),
    "load --layer foo": (USAGE, ["expected one of alexnet_conv1"]),
    "load --profile {missing}": (USAGE, ["--profile"]),
    "load --profile {deep}": (USAGE, ["expected YAML"]),
    "plan --layer alexnet_conv2 --workers 999999999": (USAGE, ["--workers"]),
    "health --timeout inf": (USAGE, ["--timeout"]),
    "load --profile {text}": (USAGE, []),
    "load --profile {binary}": (USAGE, []),
    "load --cut sideways": (USAGE, ["cut"]),
    "load --profile mix --cut rows": (USAGE, ["--cut"]),
    "load --cut width --seconds 0.1": (USAGE, ["cut: expected for step 0 on 2 workers"]),
    "demo --web -t localhost:1": (USAGE, ["--target"]),
    "demo --web --output x.png": (USAGE, ["--output"]),
    "load --clients 0": (USAGE, ["--clients"]),
    "load --metrics nowhere": (USAGE, ["--metrics"]),
    "load --web nowhere": (USAGE, ["--web"]),
    "load --web here:port": (USAGE, ["--web"]),
    "load --plot {folder}/x.doc": (USAGE, ["--plot"]),
    "load -t 127.0.0.1:1 --seconds 0.1": (FAILED, ["no server"]),
    "warmup --rows nothing": (USAGE, ["--rows"]),
    "warmup --layers {missing}": (USAGE, []),
    "warmup --layers {text}": (USAGE, ["--layers"]),
    "warmup --layers {binary}": (USAGE, ["--layers"]),
    "bench": (USAGE, []),
    "bench engine --threads none": (USAGE, ["--threads"]),
    "bench engine --simd abacus": (USAGE, []),
    "bench engine --plot {folder}/x.doc": (USAGE, ["--plot"]),
    "bench engine --rows nothing": (USAGE, ["--rows"]),
    "layers": (USAGE, []),
    "layers load {missing}": (USAGE, []),
    "layers load {text}": (USAGE, []),
    "layers load {text}.onnx": (USAGE, []),
    "layers load {array}": (USAGE, ["--name"]),
    "layers load {array} --name /abs": (FAILED, ["/abs"]),
    "layers load {array} --name ok --padding wide": (USAGE, ["padding"]),
    "layers load {array} --name ok --input x": (USAGE, ["--input"]),
    "layers load {textnpy} --name ok": (USAGE, []),
    "layers unload nothing": (FAILED, ["nothing"]),
    "networks unload no*": (FAILED, ["no*"]),
    "layers unload no*": (FAILED, ["no*"]),
    "layers show nothing": (FAILED, ["nothing"]),
    "layers statistics nothing": (FAILED, ["nothing"]),
    "networks": (USAGE, []),
    "networks load {text}": (USAGE, []),
    "networks load {missing}": (USAGE, []),
    "networks load {text} --input x": (USAGE, []),
    "networks show nothing": (FAILED, ["nothing"]),
    "networks plan nothing": (FAILED, ["nothing"]),
    "networks unload nothing": (FAILED, ["nothing"]),
    "token": (USAGE, []),
    "token new": (USAGE, []),
    "token new a/b --file {folder}/tokens.toml": (USAGE, []),
    "token new alice --file {text}": (USAGE, []),
    "token new alice --file {binary}": (USAGE, ["expected a TOML file of tokens"]),
    "token new alice --file {folder}/none/tokens.toml": (USAGE, []),
    "token hash {missing}": (USAGE, []),
    "token hash {empty}": (USAGE, []),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "text").write_text("what: is [this\n")
    (folder / "deep.yaml").write_text("[" * 20000)
    (folder / "text.onnx").write_text("no model")
    (folder / "text.npy").write_text("no array")
    np.save(folder / "complex.npy", np.ones((3, 3), np.complex64))
    np.save(folder / "words.npy", np.array([["a"]]))
    np.save(folder / "records.npy", np.zeros((3, 3), [("a", "f4")]))
    (folder / "empty").write_text("")
    (folder / "binary").write_bytes(bytes(range(256)))
    np.save(folder / "array.npy", np.ones((1, 1, 3, 3), np.float32))
    return {
        "folder": folder,
        "missing": folder / "missing.npy",
        "out": folder / "out.npy",
        "text": folder / "text",
        "textnpy": folder / "text.npy",
        "deep": folder / "deep.yaml",
        "complex": folder / "complex.npy",
        "words": folder / "words.npy",
        "records": folder / "records.npy",
        "empty": folder / "empty",
        "binary": folder / "binary",
        "array": folder / "array.npy",
    }


@pytest.mark.parametrize("words", CASES)
def test_wrong_input_ends_in_one_line(words, files, server, monkeypatch):
    monkeypatch.setenv("GROUPCONV_TARGET", server.address)
    code, parts = CASES[words]
    done = CliRunner().invoke(app(), [word.format(**files) for word in words.split()])
    said = done.stderr or done.stdout
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, repr(done.exception))
    assert done.exit_code == code, said
    assert "Traceback" not in said
    assert "unexpected" not in said.splitlines()[-1], said
    for part in parts:
        assert part in said
    if words.split(" ")[0] != "demo" and said.startswith("groupconv: "):
        assert len(said.splitlines()) == 1, said


@pytest.mark.parametrize("words", ["--executor cloud", pytest.param("--engine tpu --port 0", marks=pytest.mark.slow)])
def test_a_server_that_cannot_start_says_so_in_one_line(words):
    command = [sys.executable, "-m", "groupconv_server", "serve", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (USAGE, 1), done.stderr


def test_every_command_is_tried():
    from groupconv_server.cli.app import NAMES

    assert {words.split()[0] for words in CASES if words and words[0].isalpha()} >= set(NAMES)


def test_an_array_that_does_not_fit_in_memory_is_no_defect(monkeypatch):
    from groupconv_server.cli import plan

    monkeypatch.setattr(plan, "_layers", lambda *_: np.empty(2**62, np.uint8))
    done = CliRunner().invoke(app(), ["plan", "--layer", "alexnet_conv2", "--workers", "2"])
    assert done.exit_code == FAILED
    assert done.stderr.startswith("groupconv: out of memory (Unable to allocate 4.00 EiB")


def test_an_unexpected_error_is_one_line(monkeypatch, caplog):
    from groupconv_server.cli import plan

    def broken(*_):
        raise KeyError("a defect")

    monkeypatch.setattr(plan, "_layers", broken)
    with caplog.at_level("DEBUG", "groupconv_server.cli.app"):
        done = CliRunner().invoke(app(), ["plan", "--layer", "alexnet_conv2", "--workers", "2"])
    assert done.exit_code == FAILED
    assert done.stderr.startswith("groupconv: unexpected KeyError: 'a defect'")
    assert len(done.stderr.splitlines()) == 1
    assert caplog.records[-1].exc_info, "the traceback is in the log at DEBUG"


def test_the_version_on_a_full_disk_is_an_error_of_one_line():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "groupconv_server", "--version"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (1, "groupconv: No space left on device\n")
