"""What users see while workers die: a steady load, a worker killed every few seconds, every answer checked.

python bench/faults.py                       # 20 requests/s for 60 s, a death every 3 s
python bench/faults.py --cut rows --rate 5   # calls of a U-Net that all workers share, whenever all are there
PYTHONPATH=tests python bench/faults.py --cut rows --rate 5 --namespaces  # root: two nodes in network namespaces
python bench/faults.py --memory              # 10,000 requests and 20 deaths: what memory does
python bench/faults.py --json faults.json
"""

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
from network_models import unet

import groupconv
from groupconv_server.config import Config
from groupconv_server.executors.ray import RayExecutor
from groupconv_server.server import Server
from groupconv_worker.graph.partition.choice import CUTS

X = np.random.default_rng(0).standard_normal((2, 16, 28, 28), dtype=np.float32)
W = np.random.default_rng(1).standard_normal((32, 4, 3, 3), dtype=np.float32)


@dataclass
class Steady:
    """What came of a steady load."""

    requests: int
    failed: int
    wrong: int
    deaths: int
    shared: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    errors: list[str]


@dataclass
class Memory:
    """What memory did: bytes of this process, which is server and client, after warm-up and after the requests."""

    requests: int
    deaths: int
    before: int
    after: int
    growth: float


Ask = Callable[[], tuple[np.ndarray, bool]]
"""Sends a request. Returns the answer, and whether several workers shared it."""


def ask_layer(client: groupconv.Client) -> Ask:
    """Requests of a resident layer."""
    layer = client.load_layer("bench/faults", W, None, groupconv.ConvSpec(groups=4))
    return lambda: (layer(X), False)


def ask_network(client: groupconv.Client, cut: str) -> Ask:
    """Calls of a network that is cut."""
    net = client.load_network("bench/faults", unet(base=8))
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 128, 128), dtype=np.uint8)

    def ask() -> tuple[np.ndarray, bool]:
        result = net.run(x, cut=cut)
        (y,) = result.outputs.values()
        return y, result.report.cut == cut

    return ask


def steady(server: Server, cut: str | None, rate: float, seconds: float, every: float) -> Steady:
    """Requests that begin at given times, whatever became of those before; latency counts from these times.

    Answers of a layer have the same bits. A network that is cut sums in another order than one that is not.
    """
    latencies: list[float] = []
    errors: list[str] = []
    wrong = shared = 0
    with groupconv.connect(server.address, timeout=120) as client, ThreadPoolExecutor(64) as pool:
        ask = ask_network(client, cut) if cut else ask_layer(client)
        want = ask()[0]
        for _ in range(50):
            ask()
        begin = time.perf_counter() + 0.1

        def check(i: int) -> None:
            nonlocal wrong, shared
            try:
                found, together = ask()
                shared += together
                wrong += not np.allclose(found, want, rtol=0, atol=1e-4 * np.abs(want).max() if cut else 0)
            except groupconv.errors.GroupconvError as error:
                errors.append(f"{type(error).__name__}: {error}")
            latencies.append(time.perf_counter() - begin - i / rate)

        with Killer(server, every) as killer:
            for i in range(int(rate * seconds)):
                time.sleep(max(0.0, begin + i / rate - time.perf_counter()))
                pool.submit(check, i)
            pool.shutdown(wait=True)
    ms = sorted(1e3 * latency for latency in latencies)
    p99 = ms[int(0.99 * (len(ms) - 1))]
    return Steady(len(ms), len(errors), wrong, killer.deaths, shared, statistics.median(ms), p99, ms[-1], errors[:5])


def memory(server: Server, requests: int, deaths: int) -> Memory:
    """One request after another; a worker dies now and then."""
    process = psutil.Process()
    with groupconv.connect(server.address, timeout=30) as client:
        layer = client.load_layer("bench/faults", W, None, groupconv.ConvSpec(groups=4))
        want = layer(X)
        killed, before = 0, 0
        warm = requests // 5
        for i in range(-warm, requests):
            if i == 0:
                before = process.memory_info().rss
            if i % (requests // deaths) == 0:
                killed += (i >= 0) * kill(server)
            assert np.array_equal(layer(X), want)
    after = process.memory_info().rss
    return Memory(requests, killed, before, after, after / before - 1)


def kill(server: Server) -> int:
    """End a worker that answers, with SIGKILL."""
    assert isinstance(server.executor, RayExecutor)
    ready = server.executor.membership.ready()
    if ready:
        os.kill(random.choice(ready).facts["pid"], signal.SIGKILL)
    return len(ready[:1])


class Killer:
    """Kills a worker every so many seconds, while it is entered."""

    def __init__(self, server: Server, every: float) -> None:
        self._server, self._every, self.deaths = server, every, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _kill(self) -> None:
        for _ in itertools.count():
            if self._stopping.wait(self._every):
                return
            self.deaths += kill(self._server)


def in_namespaces(arguments: list[str]) -> None:
    """Run this script beside Ray's head, on a host of its own, with a worker on each of two other hosts."""
    import hosts  # type: ignore[import-not-found] # of tests/
    from clusters import Cluster  # type: ignore[import-not-found] # of tests/

    with hosts.hosts(3) as names, Cluster(prefix=hosts.on(names[0])) as cluster:
        for name in names[1:]:
            cluster.add(prefix=hosts.on(name))
        command = [*hosts.on(names[0]), sys.executable, __file__, *arguments, "--address", cluster.address]
        subprocess.run(command, env=cluster.env, check=True)


def main() -> None:
    """Print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two deaths")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cut", choices=CUTS, help="call a network that is cut so")
    parser.add_argument("--namespaces", action="store_true", help="each worker is on a host of its own, by TCP")
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help="10,000 requests and 20 deaths instead")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if options.namespaces:
        in_namespaces([argument for argument in sys.argv[1:] if argument != "--namespaces"])
        return
    config = Config(
        port=0, executor="ray", ray_address=options.address, workers=options.workers, threads=1, engine="cpu"
    )
    found: Any
    with Server(config) as server:
        if options.memory:
            found = memory(server, options.requests, options.deaths)
        else:
            found = steady(server, options.cut, options.rate, options.seconds, options.every)
    for name, value in asdict(found).items():
        print(f"{name:10s} {value:.4g}" if isinstance(value, float) else f"{name:10s} {value}")
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=2))


if __name__ == "__main__":
    main()
