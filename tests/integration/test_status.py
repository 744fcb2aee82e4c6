"""`groupconv status`: the table, the JSON, and the look that goes on."""

import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

import groupconv
from groupconv import ConvSpec, Step
from groupconv_server.cli.status import Status, picture
from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_worker.cpu.processor import processor

X, W = np.ones((1, 8, 16, 16), np.float32), np.ones((8, 1, 3, 3), np.float32)


@pytest.fixture(scope="module")
def server():
    with Server(Config(port=0, executor="local", workers=2, threads=1)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with groupconv.connect(server.address, timeout=60) as client:
        layer = client.load_layer("towers/left", W, None, ConvSpec(groups=8))
        for _ in range(5):
            layer(X)
        yield client


def status(server, *options, **kwargs):
    """The command. Ctrl-C counts, also where the tests run in the background of a script, which has it ignored."""
    command = ["env", "--default-signal=INT", sys.executable, "-m", "groupconv_server", "status"]
    command += ["-t", server.address, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def test_the_server_tells_of_layers_libraries_and_load(client):
    s = client.status()
    (layer,) = s.layers
    assert (layer.name, layer.version, layer.bytes, layer.requests, layer.failures) == (
        "towers/left",
        1,
        W.nbytes,
        5,
        0,
    )
    assert layer.seconds > 0
    assert s.layer_bytes == W.nbytes < s.layer_capacity
    assert s.libraries["numpy"] == np.__version__
    assert 0 < sum(w.busy_seconds for w in s.workers) <= s.uptime_seconds * len(s.workers)
    assert s.cpu_seconds > 0
    assert s.resident_bytes > 2**20
    assert all(processor() in w.device for w in s.workers)


def test_the_table_shows_workers_and_layers(server, client):
    out, _ = status(server).communicate(timeout=60)
    assert f"groupconv {groupconv.__version__} at {server.address}, executor local" in out
    for word in ("local-0", "local-1", processor().split()[0], "towers/left", "restarts", f"numpy {np.__version__}"):
        assert word in out


def test_streams_and_calibration_are_counted_apart(server, client):
    before = client.status()
    client.stream_convolve(np.ones((1, 8, 64, 4), np.float32), [Step(np.ones((8, 8, 3, 3), np.float32))])
    client.convolve(np.ones((1, 8, 6), np.float32), np.ones((8, 8, 1), np.float32), cut="nothing")
    after = client.status()
    assert (after.streams - before.streams, after.requests - before.requests) == (1, 1)
    assert sum(w.shards for w in before.workers) <= before.requests * 2 + 64 * before.streams
    assert all(w.calibration_shards > 0 for w in after.workers), "a server measures its workers when it starts"
    assert sum(w.calibration_shards for w in after.workers) == sum(w.calibration_shards for w in before.workers)
    assert sum(w.shards for w in after.workers) > sum(w.shards for w in before.workers)


def test_json_has_numbers_for_numbers(server, client):
    out, _ = status(server, "--json").communicate(timeout=60)
    shown = json.loads(out)
    assert [w["id"] for w in shown["workers"]] == ["local-0", "local-1"]
    assert shown["layers"][0]["version"] == 1
    assert shown["layers"][0]["requests"] >= 5
    assert isinstance(shown["max_message_bytes"], int)


def test_watching_draws_until_interrupted(server, client):
    process = status(server, "--watch", "--json", "--every", "0.1")
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    uptimes = [look["uptime_seconds"] for look in looks]
    assert uptimes == sorted(set(uptimes))


def test_rates_are_since_the_look_before():
    def state(seconds: float, requests: int, busy: float) -> Status:
        s = Status(uptime_seconds=seconds, requests=requests)
        s.workers.add(id="w0", device="cpu", shards=requests, busy_seconds=busy)
        s.layers.add(name="edge", version=3, requests=requests, seconds=busy)
        return s

    console = Console(file=io.StringIO(), width=160)
    console.print(picture(state(12.0, 140, 3.0), state(10.0, 100, 2.0), "here"))
    text = console.file.getvalue()
    assert "140 requests, 20.0/s" in text
    worker, layer = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("w0", "edge"))
    assert worker.split() == ["w0", "cpu", "0", "140", "20.0", "0", "50%", "0"]
    assert layer.split() == ["edge", "3", "0", "B", "140", "20.0", "25.00", "ms", "0"]


def test_lanes_are_shown_where_workers_can_have_one():
    s = Status(executor="ray")
    s.workers.add(id="ray-0", lane="unix", lane_limit=2**28)
    s.workers.add(id="ray-1")
    console = Console(file=io.StringIO(), width=160)
    console.print(picture(s, Status(), "here"))
    lines = console.file.getvalue().splitlines()
    assert "unix, to 256 MiB" in next(line for line in lines if line.startswith("ray-0"))
    assert "none" in next(line for line in lines if line.startswith("ray-1"))


def test_a_terminal_of_80_columns_has_the_whole_table():
    s = Status(executor="ray")
    s.workers.add(
        id="ray-0",
        device="cpu: AMD EPYC (family 25, model 17), 2 threads",
        node="gpu-box",
        lane="unix",
        lane_limit=2**20,
    )
    s.layers.add(name="alexnet/conv2", version=12, requests=10**6, seconds=10**4)
    console = Console(file=io.StringIO(), width=80)
    console.print(picture(s, Status(), "here", wide=False))
    text = console.file.getvalue()
    assert "…" not in text
    assert "ray-0: cpu: AMD EPYC (family 25, model 17), 2 threads on gpu-box, lane unix, to 1 MiB" in " ".join(
        text.split()
    )
