"""A server's memory is level under requests that are all different: every cache is bounded (docs/operations.md)."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import groupconv
from groupconv import Client, ConvSpec

MIB = 2**20


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[Client, psutil.Process]]:
    """A client of a server in a process of its own, which may compile few forms and keep little of layers."""
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "GROUPCONV_KERNEL_FORMS": "16",
        "GROUPCONV_TUNE": "off",
    }
    command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--executor", "local"]
    command += ["--workers", "1", "--threads", "1", "--engine", "cpu", "--layer-memory-mib", "8"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = next(found[1] for line in server.stdout if (found := re.search(r"serving .* on (\S+)", line)))
            with groupconv.connect(address, timeout=60) as client:
                yield client, psutil.Process(server.pid)
        finally:
            server.terminate()


def ask(client: Client, number: int) -> None:
    """A request like no other number's: its shape, kernel, spec or dtype differs, or the size of a layer's input."""
    rng = np.random.default_rng(number)
    if number % 4 == 0:
        client.get_layer("blur")(np.zeros((1, 16, 40 + number // 4 % 97, 40 + number // 388), np.float32))
        return
    dtype = rng.choice([np.float32, np.float64])
    groups, extra = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    transposed = bool(rng.integers(4) == 0)
    kernel, stride, dilation = (rng.integers(1, most + 1, 2).tolist() for most in (6, 3, 3))
    spec = ConvSpec(
        stride=stride,
        dilation=dilation,
        padding=rng.integers(0, 3, 2).tolist(),
        groups=groups,
        activation=[None, "relu", "gelu"][int(rng.integers(3))],
        transposed=transposed,
        flip_kernel=bool(rng.integers(2)),
    )
    height, width = 20 + number % 31, 20 + number // 31 % 67
    x = rng.standard_normal((1, groups * extra, height, width)).astype(dtype)
    w = rng.standard_normal((groups * extra, extra, *kernel)).astype(dtype)
    client.convolve(x, w, spec=spec)


def grown(serving: tuple[Client, psutil.Process], warm_up: int, requests: int) -> tuple[int, int]:
    """The server's resident bytes after so many requests, and by how many bytes they grew with so many more."""
    client, server = serving
    rng = np.random.default_rng(0)
    client.load_layer("blur", rng.standard_normal((16, 1, 13, 13), np.float32), None, ConvSpec(groups=16))
    for number in range(warm_up):
        ask(client, number)
    before = server.memory_info().rss
    for number in range(warm_up, warm_up + requests):
        ask(client, number)
    return before, server.memory_info().rss - before


def test_different_requests_leave_little_behind(serving: tuple[Client, psutil.Process]):
    """Without bounds a kernel form leaves 1.6 MiB and a size of the layer's input some 2 MiB: 400 MiB here."""
    _, more = grown(serving, warm_up=150, requests=250)
    assert more < 64 * MIB


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_different_requests_leave_memory_level(serving: tuple[Client, psutil.Process]):
    """The largest caches are full after 8,200 requests; what malloc keeps free grows a little longer."""
    before, more = grown(serving, warm_up=10_000, requests=10_000)
    assert more < 0.1 * before
