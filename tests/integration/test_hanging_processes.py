"""A process that hangs, as one that is stopped: the others of its server answer without it, and it is replaced."""

import os
import signal
import urllib.request
from contextlib import suppress

import numpy as np
import pytest

import groupconv
from groupconv.errors import UnauthenticatedError
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import entry_text, new_token
from groupconv_server.config import Config
from groupconv_server.fronts import child
from groupconv_server.fronts.supervisor import Supervisor
from waiting import until

X = np.ones((1, 1, 4), np.float32)
ONE = np.ones((1, 1, 1), np.float32)


@pytest.fixture
def server():
    with Supervisor(
        Config(port=0, executor="local", engine="reference", processes=2, workers=1, metrics_port=0)
    ) as server:
        yield server


@pytest.fixture
def stopped():
    """Stops processes, and lets those that are left go on, so that nothing waits for them in vain."""
    pids = []

    def stop(pid):
        pids.append(pid)
        os.kill(pid, signal.SIGSTOP)

    yield stop
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_who_asks_for_the_state_of_all_does_not_wait_for_a_front_that_is_stopped(server, stopped):
    stopped(server.pids[1])
    until(lambda: server._fronts.all()[1].silent)
    assert server.state() == ("DEGRADED", "1 of 2 processes do not answer")
    text = urllib.request.urlopen(server.metrics_url, timeout=30).read().decode()
    assert "groupconv_workers 1.0" in text
    os.kill(server.pids[1], signal.SIGCONT)
    until(lambda: server.state() == ("SERVING", ""))


def test_a_front_that_is_stopped_is_replaced(server, stopped, monkeypatch):
    monkeypatch.setattr(child, "HUNG", 4)
    with groupconv.connect(server.address, timeout=60) as client:
        pid = next(process.pid for process in client.status().processes if not process.connections)
        stopped(pid)
        client.load_layer("loaded-meanwhile", ONE)  # waits for all fronts
        until(lambda: pid not in server.pids and server.state() == ("SERVING", ""))
    for _ in range(8):
        with groupconv.connect(server.address, timeout=60) as client:
            assert client.get_layer("loaded-meanwhile")(X).shape == X.shape


def test_a_worker_that_is_stopped_is_replaced(server, stopped, monkeypatch):
    monkeypatch.setattr(child, "HUNG", 4)
    (worker,) = server._owner._workers.membership.ready()
    pid = worker.facts["pid"]
    stopped(pid)
    with groupconv.connect(server.address, timeout=60) as client:
        assert client.conv1d(X, ONE).shape == X.shape
    until(lambda: worker.facts["pid"] != pid and server.state() == ("SERVING", ""))


def test_a_reload_reaches_a_front_that_is_stopped(stopped, tmp_path):
    tokens = tmp_path / "tokens"
    ada, bob = new_token(), new_token()
    tokens.write_text(entry_text("ada", ada, CallerLimits()))
    with Supervisor(
        Config(port=0, executor="local", engine="reference", processes=2, tokens=tokens, insecure=True)
    ) as server:
        stopped(server.pids[1])
        until(lambda: server._fronts.all()[1].silent)
        tokens.write_text(entry_text("bob", bob, CallerLimits()))
        server.reload()
        os.kill(server.pids[1], signal.SIGCONT)
        until(lambda: len(server.gather("health")) == 2)
        for _ in range(8):
            client = groupconv.connect(server.address, timeout=60, token=ada)
            with client, pytest.raises(UnauthenticatedError):
                client.conv1d(X, ONE)
