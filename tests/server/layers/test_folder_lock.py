"""One server to a folder of layers."""

import os
import re
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from groupconv.errors import FailedPreconditionError
from groupconv_server.layers.store import LayerStore


def test_one_server_has_the_folder_and_the_second_is_told_whose_it_is(tmp_path):
    part = tmp_path / "half.part"
    with closing(LayerStore(tmp_path, holder="127.0.0.1:7")):
        part.write_bytes(b"being written")
        with pytest.raises(FailedPreconditionError, match=rf"pid {os.getpid()} on host \S+, address 127.0.0.1:7"):
            LayerStore(tmp_path)
        assert part.exists()
    LayerStore(tmp_path).close()
    assert not part.exists()


def test_a_second_server_does_not_start_and_a_killed_one_leaves_no_lock(tmp_path):
    def started():
        command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--workers", "1"]
        command += ["--engine", "reference", "--layer-dir", str(tmp_path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def line(server, pattern):
        said = []
        for text in server.stdout:
            said.append(text)
            if found := re.search(pattern, text):
                return found
        raise AssertionError("".join(said))

    first = started()
    try:
        address = line(first, r"serving .* on (\S+)")[1]
        second = started()
        found = line(second, r"in use by another server \(pid (\d+) on host \S+, address (\S+)\)")
        assert (second.wait(60), int(found[1]), found[2]) == (1, first.pid, address)
    finally:
        first.kill()
        first.wait()
    third = started()
    try:
        line(third, r"serving .* on ")
    finally:
        third.send_signal(signal.SIGTERM)
        assert third.wait(60) == 0
