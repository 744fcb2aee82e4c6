"""Workers that several front processes share: local processes, or Ray's."""

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from networks import sum_and_difference

import groupconv
from groupconv import ConvSpec
from groupconv.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import entry_text, new_token
from groupconv_server.config import Config
from groupconv_server.fronts.supervisor import Supervisor
from groupconv_worker.cuda.engine import why_unavailable
from waiting import until

X = np.ones((1, 2, 8), np.float32)
W = np.ones((2, 1, 3), np.float32)
SPEC = ConvSpec(groups=2)


def start(**options):
    return Supervisor(Config(port=0, engine="reference", processes=2, **options))


EXECUTOR = os.environ.get("SHARED_WORKERS", "local")
"""Whose workers the tests of this file share."""


@pytest.fixture(scope="module")
def server():
    with start(metrics_port=0, executor=EXECUTOR, workers=2, threads=1) as server:
        yield server


@pytest.fixture
def client(server):
    """Its client, whose connections reach both fronts."""
    while True:
        client = groupconv.connect(server.address, timeout=60, connections=8)
        before = {p.index: p.requests for p in client.status().processes}
        for _ in range(8):
            client.conv1d(X, W, groups=2)
        after = {p.index: p.requests for p in client.status().processes}
        if len(after) == 2 and all(after[i] > before.get(i, 0) for i in after):
            break
        client.close()
    with client:
        yield client


def ready(server):
    """The slots of the workers that the supervisor has, once all are ready."""
    members = server._owner._workers.membership
    until(lambda: len(members.ready()) == 2)
    return members.ready()


def mapped(pid):
    """How many pieces of lanes' memory a process has mapped: both ends of a connection map one."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:groupconv-lane")


def test_both_processes_use_both_workers(server, client):
    for _ in range(8):
        assert client.conv1d(X, W, groups=2)[0, 0, 0] == 3
    status = client.status()
    assert len(status.workers) == 2
    assert len({worker.id for worker in status.workers}) == 2
    assert sum(worker.shards for worker in status.workers) >= 16
    assert [worker.lane for worker in status.workers] == ["unix", "unix"]
    assert (status.state, len(status.processes)) == ("SERVING", 2)
    text = urllib.request.urlopen(server.metrics_url, timeout=30).read().decode()
    assert "groupconv_workers 2.0" in text
    assert text.count("\ngroupconv_worker_info{") == 2


def test_a_layer_is_kept_once_by_each_worker_and_forgotten_with_its_version(client):
    layer = client.load_layer("shared", W, spec=SPEC)
    for n in range(2, 5):
        layer = client.load_layer("shared", W * n, spec=SPEC)
        assert [layer(X)[0, 0, 0] for _ in range(8)] == [3.0 * n] * 8
    layer.unload()


def test_networks_go_to_the_workers(server, client):
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    with client.load_network("both", sum_and_difference().SerializeToString()) as network:
        for _ in range(8):
            outputs = network(a, a)
            np.testing.assert_array_equal(outputs["sum"], 2 * a)
        with pytest.raises(InvalidArgumentError):
            network(a, a[:, :2])


def test_a_lost_worker_is_noticed_by_all_and_replaced_with_the_layers(server, client):
    layer = client.load_layer("kept", W, spec=SPEC)
    first, pid = ready(server)[0], ready(server)[0].facts["pid"]
    os.kill(pid, signal.SIGKILL)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: layer(X)[0, 0, 0], range(32))
        assert list(answers) == [3.0] * 32
    until(lambda: first.ready and first.facts["pid"] != pid)
    until(lambda: [reason for _, reason in server.gather("health")] == ["", ""])
    before = {w.id: w.shards for w in client.status().workers}
    until(lambda: [layer(X)[0, 0, 0] for _ in range(8)] == [3.0] * 8 and used_more(client, before, first.id))
    assert {w.id: w.restarts for w in client.status().workers}[first.id] >= 1
    layer.unload()


def used_more(client, before, worker):
    return {w.id: w.shards for w in client.status().workers}.get(worker, 0) > before.get(worker, 0)


def test_a_lost_front_leaves_neither_lanes_nor_memory_nor_shards_on_the_workers(server, client):
    pids = [slot.facts["pid"] for slot in ready(server)]
    over = threading.Event()

    def call():
        while not over.is_set():
            with suppress(UnavailableError):
                client.conv2d(np.ones((1, 8, 96, 96), np.float32), np.ones((8, 8, 5, 5), np.float32))

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(call) for _ in range(2)]
        try:
            front, ids = server._fronts.all()[0], [slot.id for slot in ready(server)]
            until(lambda: any(server._fronts.gather("shards_of", worker).get(0, 0) for worker in ids))
            os.kill(front.pid, signal.SIGKILL)
            until(lambda: server._fronts.all()[0] is not front and len(server.gather("health")) == 2)
        finally:
            over.set()
        for done in calls:
            done.result()
    until(lambda: not any(sum(server.gather("shards_of", worker)) for worker in ids))
    until(lambda: 0 < sum(map(mapped, pids)) <= sum(map(mapped, server.pids)))
    assert [slot.facts["pid"] for slot in ready(server)] == pids
    with groupconv.connect(server.address, timeout=60) as other:
        assert other.conv1d(X, W, groups=2)[0, 0, 0] == 3


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_all_of_it_holds_for_ray_s_workers():
    """In a process of its own, as a process can have one cluster, and other tests have one in this one."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not ray and not slow", __file__]
    env = os.environ | {"SHARED_WORKERS": "ray"}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=360, cwd=Path(__file__).parents[2])
    assert ran.returncode == 0, ran.stdout[-5000:]


@pytest.mark.slow
@pytest.mark.ray
def test_a_network_is_cut_over_ray_s_workers_whichever_front_is_asked():
    program = """
import groupconv, numpy as np
from networks import towers
from groupconv_server.config import Config
from groupconv_server.fronts.supervisor import Supervisor

if __name__ == "__main__":
    config = Config(port=0, executor="ray", workers=2, threads=1, spare_workers=0, engine="cpu", processes=2)
    with Supervisor(config) as server, groupconv.connect(server.address, timeout=300, connections=8) as client:
        x = np.random.default_rng(1).standard_normal((1, 4, 60, 60)).astype(np.float32)
        with client.load_network("cut", towers()) as network:
            whole = network.run(x, cut="nothing").outputs["y"]
            for cut in ("rows",) * 4 + ("planned",):
                ran = network.run(x, cut=cut)
                np.testing.assert_allclose(ran.outputs["y"], whole, rtol=1e-5, atol=1e-6)
                assert cut == "planned" or (ran.report.cut, ran.report.worker) == ("rows", "ray-0,ray-1")
        print("all were equal")
"""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", program]
    ran = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(tests)}, capture_output=True, text=True, timeout=170
    )
    assert ran.stdout.splitlines()[-1:] == ["all were equal"], ran.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.ray
def test_with_ray_tokens_regions_and_the_drain_hold_for_both_processes(tmp_path):
    token, tokens = new_token(), tmp_path / "tokens.toml"
    tokens.write_text(entry_text("alice", token, CallerLimits(concurrent=4)))
    options = "--processes 2 --executor ray --port 0 --workers 2 --threads 1 --engine reference --allow-shared-memory"
    command = [sys.executable, "-m", "groupconv_server", "serve", *options.split(), "--tokens", tokens]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().split()[-1]
        family = psutil.Process(server.pid).children(recursive=True)
        with (
            groupconv.connect(address, timeout=60, connections=8, token=token, shared_memory=True) as client,
            ThreadPoolExecutor(8) as pool,
        ):
            x = client.empty((1, 8, 96, 96))
            x[...] = 1
            running = [pool.submit(client.conv2d, x, np.ones((8, 8, 5, 5), np.float32)) for _ in range(8)]
            done, refused = 0, 0
            for answer in running:
                try:
                    done += answer.result()[0, 0, 0, 0] == 200
                except ResourceExhaustedError:
                    refused += 1
            assert (done + refused, done > 0) == (8, True)
            last = [pool.submit(client.conv2d, x, np.ones((8, 8, 5, 5), np.float32)) for _ in range(2)]
            until(lambda: client.status().running > 0 or all(answer.done() for answer in last))
            server.send_signal(signal.SIGTERM)
            for answer in last:
                with suppress(UnavailableError):  # it came after the signal
                    assert answer.result()[0, 0, 0, 0] == 200
        assert server.wait(60) == 0
    until(lambda: not any(process.is_running() for process in family))


@pytest.mark.skipif(not why_unavailable(), reason="this machine has a CUDA device")
def test_an_engine_that_cannot_run_ends_the_start():
    with pytest.raises(FailedPreconditionError, match="cuda"):
        Supervisor(Config(port=0, engine="cuda", processes=2, executor="local"))
