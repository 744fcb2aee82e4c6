"""docs/access.md: the server with TLS, tokens and metrics comes up as the page says."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import groupconv

PAGE = (Path(__file__).parents[2] / "docs/access.md").read_text()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("openssl") or not shutil.which("curl"), reason="the page uses openssl and curl")
def test_the_server_of_a_minute_comes_up_and_refuses_others(tmp_path):
    section = PAGE.split("## TLS, tokens and metrics in a minute")[1]
    script = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1]
    port, metrics = free_port(), free_port()
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GROUPCONV_PORT": port}
    env |= {"GROUPCONV_TARGET": f"localhost:{port}", "GROUPCONV_ENGINE": "reference"}
    script = script.replace("9464", metrics) + "groupconv status --ca server.pem; kill %1; wait %1"
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, out + err
    assert f"groupconv {groupconv.__version__} at localhost:{port}" in out
    assert "SERVING\n" in out
    assert "groupconv_workers 1.0" in out
    assert "a token is needed" in err  # of the status without one
