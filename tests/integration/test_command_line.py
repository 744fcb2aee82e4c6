"""The commands as a user runs them: in processes of their own."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import trustme
from scipy import ndimage

import groupconv
from groupconv import calls
from groupconv.errors import UnavailableError
from groupconv.wire.requests import read_answer
from waiting import until

GROUPCONV = [sys.executable, "-m", "groupconv_server"]


def run(*arguments, **options):
    return subprocess.run([*GROUPCONV, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


@contextlib.contextmanager
def serving(*arguments):
    """`groupconv serve` on a free port; yields the process and its address."""
    process = subprocess.Popen([*GROUPCONV, "serve", "--port", "0", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, "the server did not start"
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def target():
    with serving("--workers", "2", "--threads", "1") as (_, address):
        yield address


def ask_for_ever(client):
    while True:
        client.status(timeout=20)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_serve_says_where_and_ends_with_exit_code_0_on_sigterm(processes):
    with serving("--engine", "reference", "--processes", processes) as (process, address):
        with groupconv.connect(address) as client:
            assert client.conv1d([[[1.0, 2.0]]], [[[2.0]]]).tolist() == [[[2.0, 4.0]]]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_lets_a_running_request_end(processes):
    x = np.random.default_rng(0).standard_normal((1, 32, 96, 96)).astype(np.float32)
    w = np.ones((32, 32, 9, 9), np.float32)
    options = "--engine", "reference", "--processes", processes
    with serving(*options) as (process, address), groupconv.connect(address) as client:
        client.status()  # connected
        ask = next(calls.run(None, x, [groupconv.Step(w)], {}))
        future = client._unary(ask.method).future(ask.message)
        while client.status().requests == 0 and not future.done():
            pass  # until it runs
        process.send_signal(signal.SIGTERM)
        with pytest.raises(UnavailableError):  # new requests are refused
            ask_for_ever(client)
        assert list(read_answer(future.result(timeout=60))[0].output.shape) == [1, 32, 88, 88]
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    "options",
    [
        "--executor local --workers 1",
        "--executor local --workers 1 --processes 2",
        "--executor local --processes 2",
        pytest.param("--executor ray --workers 1", marks=pytest.mark.ray),
    ],
)
def test_sigterm_stops_what_runs_after_the_grace_period(options):
    """What is asked for takes minutes; nothing of the sort is waited for."""
    x, w = np.ones((1, 64, 192, 192), np.int32), np.ones((64, 64, 61, 61), np.int32)
    errors = []

    def ask():
        with groupconv.connect(address) as client:
            try:
                client.run(x, [groupconv.Step(w, None, groupconv.ConvSpec(padding=30))], timeout=600)
            except groupconv.errors.GroupconvError as error:
                errors.append(error)

    with serving("--threads", "1", "--grace", "1", *options.split()) as (process, address):
        asking = threading.Thread(target=ask)
        asking.start()
        with groupconv.connect(address) as client:
            until(lambda: client.status().requests)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        asking.join(60)
    [error] = errors
    assert isinstance(error, UnavailableError)  # sent again, it may meet nobody any more: a NoServerError


def test_a_token_is_made_once_and_opens_the_server(tmp_path):
    file = tmp_path / "tokens.toml"
    made = run("token", "new", "alice", "--file", file, "--concurrent", "4")
    token = made.stdout.strip()
    assert token not in file.read_text()
    assert "concurrent = 4" in file.read_text()
    assert run("token", "hash", input=token + "\n").stdout.strip() in file.read_text()
    again = run("token", "new", "alice", "--file", file)
    assert again.returncode == 1
    assert "has a token of alice" in again.stderr
    assert "at least 32" in run("token", "hash", input="hunter2").stderr
    secret = tmp_path / "alice.token"
    secret.write_text(token + "\n")
    with serving("--engine", "reference", "--tokens", str(file)) as (_, at):
        assert run("status", "-t", at).stderr.startswith("groupconv: a token is needed")
        assert run("status", "-t", at, "--token-file", secret).returncode == 0
        assert run("status", "-t", at, env={**os.environ, "GROUPCONV_TOKEN": token}).returncode == 0
        assert run("health", "-t", at).stdout == "SERVING\n"


def test_commands_reach_a_server_by_mutual_tls_with_flags_and_variables(tmp_path):
    authority, files = trustme.CA(), {}
    for name in ("localhost", "alice"):
        certificate = authority.issue_cert(name)
        files[name] = [tmp_path / f"{name}.pem", tmp_path / f"{name}.key"]
        files[name][0].write_bytes(certificate.cert_chain_pems[0].bytes())
        files[name][1].write_bytes(certificate.private_key_pem.bytes())
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.cert_pem.bytes())
    cert, key = map(str, files["localhost"])
    with serving("--engine", "reference", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", str(ca)) as (_, at):
        cert, key = map(str, files["alice"])
        known = {**os.environ, "GROUPCONV_CA": str(ca), "GROUPCONV_CERT": cert, "GROUPCONV_KEY": key}
        known["GROUPCONV_SERVER_NAME"] = "localhost"
        assert run("health", "--target", at, env=known).stdout == "SERVING\n"
        done = run("status", "-t", at, "--ca", ca, "--cert", cert, "--key", key, "--server-name", "localhost")
        assert "reference" in done.stdout
        assert run("load", "-t", at, "--seconds", "0.2", "--clients", "1", env=known).returncode == 0
        refused = run("status", "-t", at, "--timeout", "2")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


@pytest.mark.ray
def test_serve_with_ray_ends_with_exit_code_0_on_sigterm():
    with serving("--executor", "ray", "--workers", "1", "--threads", "1") as (process, address):
        with groupconv.connect(address) as client:
            assert client.conv1d([[[1.0, 2.0]]], [[[2.0]]]).tolist() == [[[2.0, 4.0]]]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


@pytest.fixture
def empty_cluster():
    """A Ray cluster without CPUs; yields its address and the environment that has its token."""
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "PYTHONUNBUFFERED": "1"}
    env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
    ray = Path(sys.executable).with_name("ray")
    start = [ray, "start", "--head", "--block", "--num-cpus=0", "--include-dashboard=false"]
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, whose name is too long for Ray's Unix sockets
        where = ["--port=0", f"--temp-dir={folder}", "--disable-usage-stats"]
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen([*start, *where], env=env, text=True, **out) as head:
            try:
                lines = iter(head.stdout.readline, "")
                said = "".join(itertools.takewhile(lambda line: "block forever" not in line, lines))
                yield re.search(r"--address='(.+)'", said)[1], env
            finally:
                head.terminate()
                head.communicate(timeout=60)


@pytest.mark.ray
def test_a_server_that_waits_for_its_first_worker_ends_with_exit_code_0_on_sigterm(empty_cluster):
    address, env = empty_cluster
    command = [*GROUPCONV, "serve", "--port", "0", "--ray-address", address]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as server:
        try:
            lines = iter(server.stderr.readline, "")
            assert any("waiting for the first worker" in line for line in lines)
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()


def test_a_port_in_use_is_one_line(target):
    done = run("serve", "--port", target.rsplit(":", 1)[1])
    assert done.returncode == 1
    why = "Address already in use; give another --port or --host"
    assert done.stderr.splitlines()[-1] == f"groupconv: cannot listen on {target}: {why}"


def test_serve_with_cuda_on_a_machine_without_says_what_is_missing():
    from groupconv_worker.cuda.engine import why_unavailable

    if not why_unavailable():
        pytest.skip("this machine has a CUDA device")
    done = run("serve", "--port", "0", "--engine", "cuda")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"groupconv: engine cuda: {why_unavailable()}"]


def test_conv_finds_the_edges_of_a_photograph(target, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    iio.imwrite(tmp_path / "photo.png", pixels)
    done = run("conv", tmp_path / "photo.png", "-k", "sobel-x", "-o", tmp_path / "edges.png", "-t", target)
    assert done.returncode == 0, done.stderr
    assert "edges.png: 40×50×3 (y, x, c) of uint8, " in done.stdout
    want = np.stack([ndimage.sobel(pixels[..., c].astype(float), axis=1, mode="nearest") for c in range(3)], axis=-1)
    np.testing.assert_array_equal(iio.imread(tmp_path / "edges.png"), np.clip(np.abs(want), 0, 255))


def test_conv_takes_and_writes_npy(target, tmp_path):
    x = np.random.default_rng(1).integers(-9, 10, (1, 4, 9, 9)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "w.npy", np.ones((2, 2, 3, 3)))
    done = run("conv", tmp_path / "x.npy", "-k", tmp_path / "w.npy", "-o", tmp_path / "y.npy", "-t", target)
    assert done.returncode == 0, done.stderr
    with groupconv.connect(target) as client:
        want = client.conv2d(x, np.ones((2, 2, 3, 3)), padding="same", padding_mode="replicate", groups=2)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conv", "{photo}", "-k", "blur", "-o", "x.png"], "groupconv: kernel: expected one of sobel-x"),
        (["plan", "--input", "1,4,8,8", "--kernel", "4,4,3,3", "--groups", "3"], "groupconv: steps[0].spec.groups"),
    ],
)
def test_mistakes_are_one_line(target, tmp_path, arguments, message):
    photo = tmp_path / "photo.png"
    iio.imwrite(photo, np.zeros((8, 8), np.uint8))
    done = run(*(a.format(photo=photo) for a in arguments), "--target", target)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)


def test_plan_and_status_show_the_workers(target):
    done = run("plan", "--layer", "alexnet_conv2", "-t", target)
    assert "cut along" in done.stdout
    done = run("status", "-t", target)
    assert "executor local" in done.stdout
    assert "local-1" in done.stdout


def test_plan_needs_no_server_for_imagined_workers(tmp_path):
    done = run("plan", "--layer", "alexnet_conv4", "--layer", "alexnet_conv5", "--workers", "2", "-t", "127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "nothing is merged in between (2 towers of the 2 groups)" in done.stdout
    assert "considered as well:" in done.stdout
    picture = tmp_path / "plan.svg"
    done = run("plan", "--layer", "resnet50_3x3_56", "--speeds", "1,3", "--link", "1e9", "--json", "--picture", picture)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    (step,) = plan["steps"]
    assert {s["worker"] for s in step["shards"]} <= {"worker-0", "worker-1"}
    assert step["seconds"] == plan["seconds"] > 0
    assert picture.read_text().lstrip().startswith("<?xml")


def test_plan_of_a_server_has_its_workers(target):
    done = run("plan", "--layer", "resnet50_3x3_56", "--batch", "8", "--json", "-t", target)
    (step,) = json.loads(done.stdout)["steps"]
    assert step["input_shape"] == [8, 64, 56, 56]
    assert {s["worker"] for s in step["shards"]} <= {"local-0", "local-1"}


def test_health_is_an_exit_code(target):
    done = run("health", "-t", target)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    done = run("health", "--service", "groupconv.v1.ConvolutionService", "-t", target)
    assert done.returncode == 0


def test_health_of_what_is_not_there_is_exit_code_1(target):
    assert run("health", "-t", "127.0.0.1:1").returncode == 1
    done = run("health", "--service", "no.such.Service", "-t", target)
    assert done.returncode == 1
    assert done.stderr.startswith("groupconv: ")


def test_load_counts_right_answers(target):
    done = run("load", "--layer", "mobilenet_dw_14", "--clients", "2", "--seconds", "1", "-t", target)
    assert done.returncode == 0, done.stderr
    assert "0 wrong, 0 failed" in done.stdout
    assert int(done.stdout.split()[0]) > 0


def test_load_fails_where_there_is_no_server():
    done = run("load", "--clients", "1", "--seconds", "0.1", "-t", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("groupconv: ")


def test_help_has_examples():
    """test_help.py has the other commands."""
    done = run("serve", "--help")
    assert done.returncode == 0
    assert "$ groupconv serve" in done.stdout


def test_version():
    assert run("--version").stdout.strip() == f"groupconv {groupconv.__version__}"
    assert json.dumps(groupconv.__version__)
