"""The first request: one-shot convolutions of published networks, each sent three times to a server with empty caches.

A server of its own process begins with an empty cache folder. One client sends the 40 convolutions, three times each.
Printed is what the first call takes more than the third, at the median and at the 95th percentile (aim: 100 ms at
most). torch's first call, in a process that has imported it and has done one other convolution, is the peer where torch
is installed.

A second client calls a small convolution all the time: alone, beside the first client, and beside the first client
again once every kernel is compiled. Printed are its 95th percentiles. What the first client's own convolutions cost it
is fair sharing (warm / alone); what compilers cost it is cold / warm (aim: 2 at most).

    python bench/cold.py                   # on whatever processor; `--simd avx2` as one without AVX-512
    python bench/cold.py --image groupconv:latest     # only the first answer, of a fresh container
"""

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import numpy as np
import psutil

import groupconv
from groupconv_server.layers.catalogue import CatalogueLayer, catalogue, read_layers

MORE = Path(__file__).with_name("cold.csv")
SKIPPED = {"photo_gauss31_1080p"}
"""Rows of the catalogue that are no layer of a network and take a second on any path but one."""


def layers() -> list[CatalogueLayer]:
    """Those of the catalogue, and more of other networks."""
    found = catalogue() | read_layers(MORE.read_text())
    return [layer for name, layer in found.items() if name not in SKIPPED]


@contextlib.contextmanager
def served(folder: str, variables: dict[str, str], image: str | None = None) -> Iterator[str]:
    """The address of a server in a process of its own, with its caches in `folder`, or in a container of an image."""
    environment = os.environ | {"XDG_CACHE_HOME": folder, "NUMBA_CACHE_DIR": folder} | variables
    container = ["docker", "run", "--rm", "--network", "host", *(f"--env={n}={v}" for n, v in variables.items())]
    program = [*container, image] if image else [sys.executable, "-m", "groupconv_server"]
    command = [*program, "serve", "--port", "0"]
    begun = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        try:
            address = next(word for line in server.stdout for word in line.split() if word.startswith("127.0.0.1:"))
            threading.Thread(target=server.stdout.read, daemon=True).start()
            with groupconv.connect(address) as client:
                client.conv1d(np.ones((1, 1, 4), np.float32), np.ones((1, 1, 2), np.float32))
            answered, used = time.perf_counter() - begun, psutil.Process(server.pid).cpu_times()
            print(f"first answer {answered:.2f} s after the command was given (aim: {10 if image else 3})")
            if not image:
                print(f"processor time of the server until then: {used.user + used.system:.1f} s")
            yield address
        finally:
            server.terminate()


class Neighbour:
    """A second client, a process of its own, which calls a small convolution all the time and notes what a call takes.

    Attributes:
        seconds: of each call, once it has ended.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.seconds: list[float] = []

    def __enter__(self) -> Self:
        here, there = multiprocessing.get_context("spawn").Pipe()
        self._pipe = here
        self._process = multiprocessing.get_context("spawn").Process(
            target=call_until_told, args=(self._address, there)
        )
        self._process.start()
        here.recv()  # it has had its first answer
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("stop")
        self.seconds = self._pipe.recv()
        self._process.join()

    @property
    def p95(self) -> float:
        """Seconds of its calls."""
        return float(np.percentile(self.seconds, 95))


def call_until_told(address: str, pipe: Connection) -> None:
    """Call until something comes by the pipe, then send the seconds of each call by it."""
    x, w = np.ones((1, 16, 28, 28), np.float32), np.ones((16, 16, 1, 1), np.float32)
    seconds: list[float] = []
    with groupconv.connect(address) as client:
        client.conv2d(x, w)
        pipe.send("ready")
        while not pipe.poll():
            begun = time.perf_counter()
            client.conv2d(x, w)
            seconds.append(time.perf_counter() - begun)
    pipe.send(seconds)


def send(address: str, chosen: list[CatalogueLayer]) -> list[list[float]]:
    """Seconds of three calls of each layer, one layer after the other."""
    seconds = []
    with groupconv.connect(address) as client:
        for layer in chosen:
            x, w, bias = layer.arrays()
            took, ran = [], []
            for _ in range(3):
                begun = time.perf_counter()
                result = client.run(x, [groupconv.Step(w, bias, layer.spec)])
                took.append(time.perf_counter() - begun)
                shard = result.report.steps[0][0]
                ran.append(shard.algorithm + ("*" if shard.improving else ""))
            print(f"{layer.name:24} {' '.join(f'{t * 1e3:8.1f}' for t in took)} ms   {', '.join(ran)}")
            seconds.append(took)
    return seconds


def warm_up(address: str, chosen: list[CatalogueLayer], seconds: float) -> bool:
    """Send the convolutions until every one runs by its final algorithm; False if that takes longer than `seconds`."""
    limit, left = time.monotonic() + seconds, chosen
    with groupconv.connect(address) as client:
        while left and time.monotonic() < limit:
            left = [layer for layer in left if improving(client, layer) or improving(client, layer)]  # first it may ask
            time.sleep(1)  # the compiler has the processor
    return not left


def improving(client: groupconv.Client, layer: CatalogueLayer) -> bool:
    """Send a convolution; whether a better algorithm for it is on its way."""
    x, w, bias = layer.arrays()
    return client.run(x, [groupconv.Step(w, bias, layer.spec)]).report.steps[0][0].improving


def torch_first_calls(chosen: list[CatalogueLayer]) -> list[float] | None:
    """Seconds that torch's first call takes more than its third; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.nn.functional.conv2d(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3))
    more = []
    for layer in chosen:
        spec, g = layer.spec, layer.geometry
        x, w, bias = map(torch.from_numpy, layer.arrays())
        call = torch.nn.functional.conv_transpose2d if g.transposed else torch.nn.functional.conv2d
        low = tuple(pair[0] for pair in g.padding)
        took = []
        for _ in range(3):
            begun = time.perf_counter()
            call(x, w, bias, stride=g.stride, padding=low, dilation=g.dilation, groups=spec.groups)
            took.append(time.perf_counter() - begun)
        more.append(took[0] - took[2])
    return more


def line(name: str, more: list[float]) -> str:
    """Median and 95th percentile in words."""
    median, p95 = np.median(more) * 1e3, np.percentile(more, 95) * 1e3
    return f"{name}: first call minus third {median:.0f} ms median, {p95:.0f} ms p95"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", type=float, default=5, help="seconds that the second client has for itself")
    parser.add_argument("--warm", type=float, default=300, help="seconds until all must be compiled, at most")
    parser.add_argument("--rows", default="", help="only layers whose name has one of these parts, by commas")
    parser.add_argument("--simd", choices=("avx2", "avx512"), help="instructions of the server's kernels")
    parser.add_argument("--image", help="start five containers of this image, print when each first answers, and end")
    options = parser.parse_args()
    parts = options.rows.split(",")
    chosen = [layer for layer in layers() if any(part in layer.name for part in parts)]
    variables = {"GROUPCONV_SIMD": options.simd} if options.simd else {}
    if options.image:
        for _ in range(5):
            with served("", variables, options.image):
                pass
        return
    with tempfile.TemporaryDirectory() as folder, served(folder, variables) as address:
        with Neighbour(address) as cold:
            begun = time.perf_counter()
            seconds = send(address, chosen)
            total = time.perf_counter() - begun
        ready = warm_up(address, chosen, options.warm)
        with Neighbour(address) as warm:
            print("again, with compiled kernels" if ready else "again; not all kernels are compiled")
            send(address, chosen)
        with Neighbour(address) as alone:
            time.sleep(options.alone)
    print(f"\n{len(chosen)} convolutions, {total:.1f} s of three calls each, load {os.getloadavg()[0]:.1f}")
    print(line("groupconv (aim: 100 ms at p95)", [first - third for first, _, third in seconds]))
    more = torch_first_calls(chosen)
    print("torch is not installed" if more is None else line("torch", more))
    print(
        f"second client: p95 {alone.p95 * 1e3:.1f} ms alone, {warm.p95 * 1e3:.1f} ms beside warm convolutions, "
        f"{cold.p95 * 1e3:.1f} ms beside cold ones"
    )
    print(f"warm / alone x {warm.p95 / alone.p95:.2f}, cold / warm x {cold.p95 / warm.p95:.2f} (aim: 2)")


if __name__ == "__main__":
    main()
