"""A server needs no folder that can be written: it starts, answers and ends on a read-only root without a home."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import groupconv

READ_ONLY = 'mount --make-rprivate / && mount -o remount,ro,bind / && exec "$@"'


def in_a_namespace(*command):
    return ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", *command]


def possible():
    """Whether this process may make a mount namespace whose root is read-only."""
    try:
        ran = subprocess.run(in_a_namespace("touch", "/groupconv-writes"), capture_output=True, timeout=60)
    except OSError:
        return False
    return b"Read-only file system" in ran.stderr


@pytest.mark.skipif(not possible(), reason="needs root and unshare")
def test_a_server_starts_answers_and_ends_on_a_read_only_root():
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    command = in_a_namespace(sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--workers", "1")
    environment = kept | {"HOME": "/nonexistent"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            said, address = [], None
            for line in server.stdout:
                said.append(line)
                if address := re.search(r"groupconv is serving .* on (\S+)", line):
                    break
            assert address, "".join(said)
            assert len([line for line in said if "kept in memory alone" in line]) == 1
            x, w = np.ones((1, 8, 20, 20), np.float32), np.ones((8, 1, 3, 3), np.float32)
            with groupconv.connect(address[1], timeout=120) as client:
                assert (client.conv2d(x, w, groups=8) == 9).all()
                layer = client.load_layer("kept", w, None, groupconv.ConvSpec(groups=8))
                assert (layer(x) == 9).all()
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
