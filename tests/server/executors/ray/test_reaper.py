"""A server that is killed leaves nothing of Ray's behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from groupconv_server.executors.ray.reaper import VARIABLE, Reaper, processes
from waiting import until


def sleeping(folder):
    """A process of a cluster, which would outlive everything."""
    return subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.pause()"], env=os.environ | {VARIABLE: str(folder)}
    )


def test_what_is_marked_ends_with_the_server_and_the_folder_goes(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    marked, other = sleeping(folder), sleeping(tmp_path / "cluster2")
    try:
        until(lambda: processes(str(folder)) == [marked.pid])
        server = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        assert server.stdout.readline() == "ready\n"
        assert marked.poll() is None
        server.kill()
        server.wait()
        assert marked.wait(30) == -signal.SIGKILL
        until(lambda: not folder.exists(), 30)
        assert other.poll() is None
    finally:
        for process in (marked, other):
            process.kill()
            process.wait()


KILLED = """
import signal, sys
from pathlib import Path
from groupconv_server.executors.ray.reaper import Reaper
Reaper(Path(sys.argv[1]))
print("ready", flush=True)
signal.pause()
"""


def test_one_that_is_dismissed_ends_nothing(tmp_path):
    marked = sleeping(tmp_path)
    try:
        Reaper(tmp_path).dismiss()
        assert marked.poll() is None
        assert tmp_path.exists()
    finally:
        marked.kill()
        marked.wait()


@pytest.mark.ray
def test_a_server_that_is_killed_leaves_no_process_of_rays():
    command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--executor", "ray"]
    command += ["--workers", "1", "--threads", "1", "--engine", "reference"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert "is serving" in server.stdout.readline()
            environment = [Path(f"/proc/{child}/environ") for child in children(server.pid)]
            (folder,) = {
                value.decode().partition("=")[2]
                for path in environment
                for value in path.read_bytes().split(b"\0")
                if value.startswith(VARIABLE.encode())
            }
            assert len(processes(folder)) >= 5  # the head, the node, its agents, the worker
        finally:
            server.kill()
    until(lambda: not processes(folder), 30)
    until(lambda: not Path(folder).exists(), 30)


def children(pid):
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
