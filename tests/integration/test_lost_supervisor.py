"""A supervisor that is stopped or killed: its processes serve on without it, or end at once."""

import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import psutil
import pytest

import groupconv
from groupconv.errors import DeadlineExceededError, UnavailableError
from waiting import until

X = np.ones((1, 1, 4), np.float32)
ONE = np.ones((1, 1, 1), np.float32)


@contextmanager
def serving(*options):
    """A server of two processes, and its address."""
    command = [sys.executable, "-m", "groupconv_server", "serve", "--processes", "2", "--engine", "reference"]
    command += ["--executor", "local", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server, server.stdout.readline().split()[-1]
        finally:
            server.send_signal(signal.SIGCONT)
            server.terminate()


@pytest.mark.parametrize("workers", [(), ("--workers", 1)], ids=["own engines", "a shared worker"])
def test_while_the_supervisor_is_stopped_requests_go_on_and_changes_are_refused_by_name(workers):
    with serving("--port", 0, *workers) as (server, address), groupconv.connect(address, timeout=60) as client:
        layer = client.load_layer("kept", ONE)
        server.send_signal(signal.SIGSTOP)
        with groupconv.connect(address, timeout=0.5) as hasty, pytest.raises(DeadlineExceededError):
            hasty.load_layer("soon", ONE)  # it is not known yet that the supervisor is silent
        for change in (lambda: client.load_layer("new", ONE), layer.unload):
            with pytest.raises(UnavailableError, match="the supervisor of this server does not answer"):
                change()
        status = client.status()
        assert (status.state, len(status.processes)) == ("DEGRADED", 1)
        assert status.trouble == "the supervisor of this server does not answer; try again"
        for _ in range(8):
            with groupconv.connect(address, timeout=60) as other:
                assert other.get_layer("kept")(X).shape == other.conv1d(X, ONE).shape == X.shape
        server.send_signal(signal.SIGCONT)
        until(lambda: loaded(client))
        assert client.get_layer("new")(X).shape == X.shape


def loaded(client):
    try:
        return client.load_layer("new", ONE)
    except UnavailableError:
        return None


@pytest.mark.parametrize("workers", [(), ("--workers", 1)], ids=["own engines", "a shared worker"])
def test_when_the_supervisor_is_killed_its_processes_end_and_the_port_is_free(workers):
    with serving("--port", 0, *workers) as (server, address):
        family = psutil.Process(server.pid).children(recursive=True)
        with groupconv.connect(address, timeout=60) as client:
            client.conv1d(X, ONE)
            x, w = np.ones((8, 8, 96, 96), np.float32), np.ones((8, 8, 5, 5), np.float32)
            running = threading.Thread(target=lost, args=(client, x, w))
            running.start()
            until(lambda: client.status().running > 0 or not running.is_alive())
            server.kill()
            server.wait()
            until(lambda: not any(process.is_running() for process in family))
            running.join()
    with serving("--port", address.rsplit(":", 1)[1]) as (_, again), groupconv.connect(again, timeout=60) as client:
        assert again == address
        assert client.conv1d(X, ONE).shape == X.shape


def lost(client, x, w):
    """Call until the server has gone."""
    try:
        while True:
            client.conv2d(x, w)
    except UnavailableError:
        return
