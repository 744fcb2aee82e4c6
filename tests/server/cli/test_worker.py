"""`groupconv worker` before it has joined a cluster."""

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from waiting import until


@contextmanager
def waiting_for(port):
    """A worker that has said that it waits for the head of its cluster."""
    command = [sys.executable, "-m", "groupconv_server", "worker", "--join", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as worker:
        try:
            assert "it is waited for" in worker.stderr.readline()
            yield worker
        finally:
            worker.kill()


@pytest.fixture
def bound():
    """A socket that has a port and does not listen on it yet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_while_no_head_answers(bound, number):
    with waiting_for(bound.getsockname()[1]) as worker:
        worker.send_signal(number)
        assert worker.wait(60) == 0


def test_it_joins_once_the_head_answers(bound):
    with waiting_for(bound.getsockname()[1]) as worker:
        bound.listen()
        until(lambda: "--block" in Path(f"/proc/{worker.pid}/cmdline").read_text().split("\0"))
