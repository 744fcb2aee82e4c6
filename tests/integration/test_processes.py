"""A server of several processes looks like one."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import groupconv
import groupconv.aio
from groupconv import ConvSpec, Step
from groupconv.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnavailableError
from groupconv_server.cli.app import app
from groupconv_server.config import Config
from groupconv_server.fronts.supervisor import Supervisor
from groupconv_server.layers.store import LayerStore
from waiting import until

X = np.ones((1, 1, 4), np.float32)


def kernel(n):
    return np.full((1, 1, 1), n, np.float32)


def start(**options):
    return Supervisor(Config(port=0, executor="local", engine="reference", processes=2, **options))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A server of two processes."""
    folder = tmp_path_factory.mktemp("layers")
    store = LayerStore(folder)
    store.save("stored", 3, [Step(kernel(7))])
    store.close()
    with start(metrics_port=0, shared_memory=True, layer_dir=folder) as server:
        yield server


@pytest.fixture(scope="module")
def client(several):
    """Its client, with a connection to each process."""
    with reaching_all(several) as client:
        yield client


def reaching_all(server, **options):
    """A client whose connections reach every process."""
    while True:
        client = groupconv.connect(server.address, timeout=60, connections=8, **options)
        before = requests_of(client)
        for _ in range(8):
            client.conv1d(X, kernel(1))
        after = requests_of(client)
        if len(after) == 2 and all(after[i] > before.get(i, 0) for i in after):
            return client
        client.close()


def requests_of(client):
    """Requests of each process, by its number."""
    return {process.index: process.requests for process in client.status().processes}


def test_each_process_answers(several):
    with reaching_all(several) as client:
        before = requests_of(client)
        for _ in range(16):
            client.conv1d(X, kernel(2))
        after = requests_of(client)
        assert sorted(after) == [0, 1]
        assert all(after[i] > before[i] for i in after)
        assert sum(after.values()) - sum(before.values()) == 16
        assert client.status().requests == sum(after.values())
        assert [w.id for w in client.status().workers] == ["local-0", "local-1"]


def test_the_awaiting_client_takes_its_connections_in_turn(several):
    async def ask():
        async with groupconv.aio.connect(several.address, timeout=60, connections=8) as client:
            answers = await asyncio.gather(*(client.conv1d(X, kernel(2)) for _ in range(16)))
            return {float(y.flat[0]) for y in answers}, await client.status()

    answers, status = asyncio.run(ask())
    assert answers == {2.0}
    assert sum(process.connections for process in status.processes) >= 8


@pytest.mark.parametrize("connections", [0, 65, True, 1.5])
def test_a_number_of_connections_that_cannot_be(connections):
    with pytest.raises(InvalidArgumentError, match="connections: expected an integer from 1 to 64"):
        groupconv.connect("localhost:1", connections=connections)


def test_the_command_lists_the_processes(several, client):
    shown = CliRunner().invoke(app(), ["status", "--target", several.address]).output
    rows = [line.split()[:2] for line in shown.splitlines()]
    assert all([str(p.index), str(p.pid)] in rows for p in client.status().processes)


def test_no_answer_is_of_an_older_version_than_one_before(client):
    def load(n):
        return client.load_layer_steps("switched", [Step(kernel(n)), Step(kernel(n))])

    layer = load(1)
    done = threading.Event()

    def ask():
        seen = []
        while not done.is_set():
            y = layer(X)
            assert (y == y.flat[0]).all()
            seen.append(int(y.flat[0]))
        return seen

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            versions = [load(n).info.version for n in range(2, 7)]
            after = [int(layer(X).flat[0]) for _ in range(8)]
        finally:
            done.set()
        for future in asking:
            seen = future.result()
            assert seen == sorted(seen)
            assert set(seen) <= {n * n for n in range(1, 7)}
    assert versions == sorted(set(versions))
    assert after == [36] * 8
    (info,) = [info for info in client.list_layers() if info.name == "switched"]
    assert info.requests >= 8
    assert info.version == versions[-1]
    layer.unload()
    for _ in range(8):
        with pytest.raises(NotFoundError):
            layer(X)


def test_loads_of_one_name_at_the_same_time_leave_one_version(client):
    with ThreadPoolExecutor(4) as pool:
        infos = list(pool.map(lambda n: client.load_layer("raced", kernel(n)).info, range(8)))
    last = max(info.version for info in infos)
    layer = client.get_layer("raced")
    assert layer.info.version == last
    assert len({float(layer(X).flat[0]) for _ in range(8)}) == 1
    layer.unload()


def test_a_region_is_registered_once_and_used_with_all(several):
    with reaching_all(several, shared_memory=True) as client:
        x = client.empty((1, 1, 4))
        x[...] = 3
        answers = [client.conv1d(x, kernel(2)).flat[0] for _ in range(8)]
    assert answers == [6.0] * 8
    until(lambda: not several.ledger.names("client region"))


def test_the_metrics_are_sums(several, client):
    def read():
        text = urllib.request.urlopen(several.metrics_url, timeout=30).read().decode()
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    name = 'groupconv_requests_total{code="OK",method="groupconv.v1.ConvolutionService/Convolve"}'
    before = float(read().get(name, 0))
    for _ in range(8):
        client.conv1d(X, kernel(2))
    after = read()
    assert float(after[name]) - before == 8
    assert float(after["groupconv_workers"]) == 2
    assert float(after["groupconv_layers_limit_bytes"]) == several.config.layer_bytes


def test_a_lost_process_is_replaced_and_has_what_is_loaded(several, client):
    layer = client.load_layer("kept", kernel(5))
    pid = several.pids[0]
    os.kill(pid, signal.SIGKILL)
    assert [float(layer(X).flat[0]) for _ in range(16)] == [5.0] * 16  # the client tries again
    until(lambda: pid not in several.pids and len(several.gather("health")) == 2)
    with reaching_all(several) as another:
        kept = another.get_layer("kept")
        assert [float(kept(X).flat[0]) for _ in range(8)] == [5.0] * 8
        assert sum(p.restarts for p in another.status().processes) >= 1
        assert another.status().state == "SERVING"
    layer.unload()


def test_three_processes_are_one_and_replace_one_that_is_lost():
    config = Config(port=0, executor="local", engine="reference", processes=3)
    with Supervisor(config) as server:
        with groupconv.connect(server.address, timeout=60, connections=8) as client:
            for n in (2, 3):
                layer = client.load_layer_steps("switched", [Step(kernel(n))])
                assert {float(layer(X).flat[0]) for _ in range(8)} == {float(n)}
            assert sorted(requests_of(client)) == [0, 1, 2]
        lost = server.pids[2]
        os.kill(lost, signal.SIGKILL)
        until(lambda: lost not in server.pids and server.state()[0] == "SERVING")
        with groupconv.connect(server.address, timeout=60, connections=8) as client:
            layer = client.get_layer("switched")
            assert {float(layer(X).flat[0]) for _ in range(8)} == {3.0}
            assert sorted(requests_of(client)) == [0, 1, 2]
    assert server.in_order


def test_layers_come_back_from_disk_and_new_ones_are_kept(several, client):
    stored = client.get_layer("stored")
    assert stored.info.version == 3
    assert [float(stored(X).flat[0]) for _ in range(8)] == [7.0] * 8
    new = client.load_layer("new", kernel(8))
    assert new.info.version > 3
    assert len(list(several.config.layer_dir.glob("new-*"))) == 2
    new.unload()
    assert not list(several.config.layer_dir.glob("new-*"))
    with pytest.raises(FailedPreconditionError, match="is in use by another server"):
        start(layer_dir=several.config.layer_dir)


def test_what_several_processes_cannot_do_is_refused_at_the_start():
    with pytest.raises(FailedPreconditionError, match=r"--processes 2: .*leave --evict-layers out"):
        start(evict_layers=True)


def test_a_port_that_another_server_has_is_refused(several):
    with pytest.raises(UnavailableError, match="Address already in use; give another --port"):
        Supervisor(Config(port=several.port, executor="local", processes=2))


@pytest.mark.slow
def test_a_signal_drains_all_processes():
    command = [sys.executable, "-m", "groupconv_server", "serve", "--processes", "2", "--port", "0"]
    with subprocess.Popen([*command, "--engine", "reference"], stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().split()[-1]
        with groupconv.connect(address, timeout=60, connections=4) as client, ThreadPoolExecutor(8) as pool:
            x = np.ones((8, 8, 64, 64), np.float32)
            w = np.ones((8, 8, 5, 5), np.float32)
            client.conv2d(x, w)
            running = [pool.submit(client.conv2d, x, w) for _ in range(8)]
            until(lambda: client.status().running > 0 or all(answer.done() for answer in running))
            server.send_signal(signal.SIGTERM)
            for answer in running:
                try:
                    assert answer.result().shape == (8, 8, 60, 60)
                except UnavailableError:
                    continue  # it came after the signal
        assert server.wait(60) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("workers", "names"),
    [
        ("own", ("layers", "layer_loads", "layer_streams", "layer_versions", "tokens", "metrics", "inference")),
        ("own", ("shared_regions", "shared_owners", "shared_client", "stream_limits", "refusals", "service")),
        ("own", ("layer_commands", "status", "stream", "stream_lives")),
        ("local", ("shared_regions",)),
        pytest.param("ray", ("layers",), marks=pytest.mark.ray),  # a process starts one cluster, so one file at a time
    ],
)
def test_the_tests_of_one_process_hold_for_two(workers, names):
    tests = [Path(__file__).with_name(f"test_{name}.py") for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "two_processes", "-p", "no:cacheprovider", *tests]
    if workers == "ray":  # that one takes a minute, and Ray has a test of its own
        command += ["-k", "not every_variant"]
    else:
        command += ["-m", "not ray and not slow"]
    env = os.environ | {"TWO_PROCESSES": workers}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tests[0].parents[2], env=env)
    assert done.returncode == 0, done.stdout[-5000:]


def test_a_spec_crosses_processes(client):
    """Weights travel in shared memory: several arrays of several dtypes at their places."""
    steps = [
        Step(np.full((2, 1, 3), 2, np.float16), np.array([1, 2], np.float16), ConvSpec(groups=1, padding=1)),
        Step(np.full((1, 2, 1), 3, np.float16), None, ConvSpec(activation="relu")),
    ]
    layer = client.load_layer_steps("mixed", steps)
    want = client.run(X.astype(np.float16), steps).output
    for _ in range(8):
        np.testing.assert_array_equal(layer(X.astype(np.float16)), want)
    layer.unload()
