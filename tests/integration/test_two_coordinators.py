"""Two coordinators, each with its share of a cluster's workers, and clients of both: one is killed and comes back."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

import groupconv
from clusters import Cluster
from groupconv import ConvSpec
from waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
RNG = np.random.default_rng(0)
SPEC = ConvSpec(groups=2)
W = RNG.standard_normal((8, 4, 3, 3), dtype=np.float32)
SMALL = RNG.standard_normal((2, 8, 20, 20), dtype=np.float32)
LARGE = RNG.standard_normal((1, 8, 200, 200), dtype=np.float32)  # above what gRPC keeps for a retry by default
SECONDS = 180


class Load:
    """Calls from several threads, one after another, every answer checked, until the end of the context."""

    def __init__(self, *calls):
        self._calls, self._answers, self._done = calls, [0] * len(calls), threading.Event()

    def __enter__(self):
        self._pool = ThreadPoolExecutor(len(self._calls))
        self._asking = [self._pool.submit(self._ask, i, *call) for i, call in enumerate(self._calls)]
        return self

    def __exit__(self, kind, *_):
        self._done.set()
        self._pool.shutdown()
        if kind is None:
            for future in self._asking:
                future.result()

    def more(self, answers=10):
        """Wait until each thread has so many more answers, or one failed."""
        enough = [n + answers for n in self._answers]
        until(
            lambda: (
                any(f.done() for f in self._asking) or all(n >= e for n, e in zip(self._answers, enough, strict=True))
            ),
            seconds=SECONDS,
        )

    def _ask(self, i, call, want):
        while not self._done.is_set():
            np.testing.assert_array_equal(call(), want)
            self._answers[i] += 1


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_one_dies_clients_go_on_and_it_takes_its_part_again(tmp_path):
    with Cluster() as cluster, ExitStack() as stack:
        ports = {share: free_port() for share in "ab"}
        addresses = {share: f"127.0.0.1:{port}" for share, port in ports.items()}
        direct = {s: stack.enter_context(groupconv.connect(a, timeout=60)) for s, a in addresses.items()}

        def serve(share):
            where = ["--port", str(ports[share]), "--layer-dir", str(tmp_path / share)]
            arguments = [*where, "--worker-labels", f"share={share}"]
            return stack.enter_context(cluster.serving(*arguments, log=f"server-{share}.log"))[0]

        def answered(share):
            return direct[share].get_layer("load").info.requests

        for share in "ab":
            cluster.add(labels=f"share={share}")
        processes = {share: serve(share) for share in "ab"}
        for client in direct.values():
            until(lambda client=client: client.status().state == "SERVING", seconds=SECONDS, every=0.2)
            assert len(client.status().workers) == 1
            client.load_layer("load", W, None, SPEC, inputs=[SMALL.shape])

        target = f"ipv4:{addresses['a']},{addresses['b']}"
        with groupconv.connect(target, timeout=120, balance=True) as client:
            layer = client.get_layer("load")
            small, large = (layer, SMALL), (lambda x: client.run(x, [groupconv.Step(W, None, SPEC)]).output, LARGE)
            calls = [(lambda f=f, x=x: f(x), f(x)) for f, x in (small, small, large, large)]
            with Load(*calls) as load:
                until(lambda: answered("a") > 9 and answered("b") > 9, seconds=SECONDS, every=0.2)
                for _ in range(2):
                    processes["a"].kill()
                    processes["a"].wait()
                    load.more(30)
                    processes["a"] = serve("a")
                    until(lambda: answered("a") > 9, seconds=SECONDS, every=0.2)  # it has its layer again
                load.more()
