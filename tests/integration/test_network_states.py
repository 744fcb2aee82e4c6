"""How far the programs of networks are, as users of real servers see it: in one process, in several, over Ray."""

import asyncio
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from compiled_networks import model
from networks import towers
from onnx import helper
from typer.testing import CliRunner

import groupconv
import groupconv.aio
from groupconv.errors import DeadlineExceededError, FailedPreconditionError
from groupconv.networks.state import Phase
from groupconv_server.cli.app import app
from waiting import until

X = np.random.default_rng(0).standard_normal((1, 64, 56, 56)).astype(np.float32)
LRN = model([helper.make_node("LRN", ["x"], ["y"], size=5)], {"x": X.shape})
COMMAND = [sys.executable, "-m", "groupconv_server"]


def test_a_network_says_who_answers(client):
    """The servers of tests make no programs."""
    net = client.load_network("state/one", towers())
    x = np.ones((1, 4, 9, 9), np.float32)
    assert str(net.state()) == "answered by onnxruntime; not called yet"
    with pytest.raises(FailedPreconditionError, match="not called yet"):
        net.wait()
    seen = []
    state = net.wait(x, progress=seen.append, timeout=60)
    assert (state.phase, state.shapes) == (Phase.WAITING, {"x": x.shape})
    assert "GROUPCONV_TUNE" in state.reason
    assert seen == [state]
    assert net.statistics().states == client.list_networks()[0].states == (state,)
    net.unload()


def test_each_node_has_its_time_once_one_asks_for_it(client, server):
    net = client.load_network("times/towers", towers())
    x = np.ones((1, 4, 9, 9), np.float32)
    net(x)
    assert all(node.seconds is None for node in net.plan(x.shape).nodes)
    (y,) = net.run(x, times=True).outputs.values()
    np.testing.assert_array_equal(y, net(x))
    plan = net.plan(x.shape)
    assert all(node.seconds is not None or node.fused_into for node in plan.nodes)
    named = {node.name for node in plan.nodes if node.seconds is not None}
    assert {node.fused_into for node in plan.nodes} <= named | {""}
    shown = CliRunner().invoke(
        app(), ["networks", "show", "times/towers", "--input", "x=2,4,9,9", "--times", "--target", server.address]
    )
    assert shown.exit_code == 0, shown.output
    assert "of all" in shown.output
    net.unload()


def test_one_can_wait_without_blocking(server):
    async def wait():
        async with groupconv.aio.connect(server.address) as client:
            net = await client.load_network("state/aio", towers())
            with pytest.raises(FailedPreconditionError, match="not called yet"):
                await net.wait()
            state = await net.wait(inputs={"x": np.ones((1, 4, 9, 9), np.float32)}, timeout=60)
            assert state == await net.state()
            await net.unload()
            return state

    assert asyncio.run(wait()).phase is Phase.WAITING


def taken_over(tmp_path, *options):
    """A server whose programs take over: all that a user sees of it, from the first call on."""
    variables = {**os.environ, "GROUPCONV_TUNE": "on", "COLUMNS": "300"}
    serve = [*COMMAND, "serve", "--port", "0", "--threads", "1", *options]
    file = tmp_path / "lrn.onnx"
    file.write_bytes(LRN)

    def run(*arguments):
        done = subprocess.run(
            [*COMMAND, *arguments, "--target", address], capture_output=True, text=True, env=variables, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=log, env=variables)
    try:
        address = re.search(r"\S+:\d+", process.stdout.readline().decode()).group()
        loaded = run("networks", "load", str(file), "--wait", "--timeout", "240")
        assert loaded.stderr == ""  # it is no terminal
        assert re.search(r"^its own program since \d{4}-.* × onnxruntime's time", loaded.stdout, re.MULTILINE)
        assert "its own program since" in run("networks", "list").stdout
        shown = run("networks", "show", "lrn").stdout
        assert re.search(r"^\S+, x=1,64,56,56: its own program since", shown, re.MULTILINE)
        assert re.search(r"\d ms +100\.0%$", run("networks", "show", "lrn", "--times").stdout, re.MULTILINE)
        with groupconv.connect(address, timeout=120) as client:
            net = client.get_network("lrn")
            assert net.state().phase is Phase.PROGRAM
            before = net.state().since
            client.load_network("lrn", LRN)(X)
            with pytest.raises(DeadlineExceededError, match="answered by onnxruntime; "):
                net.wait(timeout=0)
            states = []
            net.wait(progress=states.append, timeout=240)
            assert {state.phase for state in states} <= {Phase.COMPILING, Phase.MEASURING, Phase.PROGRAM}
            assert net.state().since > before
            assert net.run(X, times=True).outputs["y"].shape == X.shape
            assert all(node.seconds for node in net.plan(X.shape).nodes)
            until(lambda: net.run(X).report.parts[0].algorithm == "groupconv", 60)
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_user_sees_how_a_program_takes_over(tmp_path, processes):
    taken_over(tmp_path, "--executor", "local", "--workers", "1", "--processes", str(processes))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_user_sees_how_a_program_takes_over_under_ray(tmp_path, processes):
    taken_over(tmp_path, "--executor", "ray", "--workers", "1", "--processes", str(processes))
