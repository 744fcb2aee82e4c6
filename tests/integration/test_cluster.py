"""A server and its nodes: they join, drain, are lost and return, under requests whose answers are checked."""

import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

import groupconv
from clusters import Cluster, kill_tree
from groupconv import ConvSpec
from groupconv.errors import UnavailableError
from waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((2, 8, 20, 20), dtype=np.float32), RNG.standard_normal((8, 4, 3, 3), dtype=np.float32)


class Load:
    """Requests from several threads, one after another, every answer checked, until the end of the context."""

    def __init__(self, client, threads=2, rate=None):
        self.layer = client.load_layer("load", W, None, ConvSpec(groups=2))
        self.want = self.layer(X)
        self.answers, self.worst = 0, 0.0
        self._done, self._threads, self._pause = threading.Event(), threads, threads / rate if rate else 0.0

    def __enter__(self):
        self._pool = ThreadPoolExecutor(self._threads)
        self._asking = [self._pool.submit(self._ask) for _ in range(self._threads)]
        return self

    def __exit__(self, kind, *_):
        self._done.set()
        self._pool.shutdown()
        if kind is None:
            for future in self._asking:
                future.result()
            assert self.answers

    def more(self, answers=20):
        """Wait until so many more were answered, or one failed."""
        enough = self.answers + answers
        until(lambda: self.answers >= enough or any(f.done() for f in self._asking))

    def _ask(self):
        while not self._done.wait(self._pause):
            start = time.monotonic()
            np.testing.assert_array_equal(self.layer(X), self.want)
            self.worst = max(self.worst, time.monotonic() - start)
            self.answers += 1


def workers(client):
    return {w.id for w in client.status().workers}


@pytest.mark.slow
def test_nodes_join_drain_are_lost_and_return_under_load_and_no_request_sees_it():
    with Cluster() as cluster:
        first = cluster.add()
        with cluster.serving() as (server, address), groupconv.connect(address, timeout=60) as client:
            with Load(client) as load:
                load.more()
                second = cluster.add()
                until(lambda: len(workers(client)) == 2)
                load.more()
                before = {w.id: w.shards for w in client.status().workers}
                until(lambda: all(w.shards > before[w.id] for w in client.status().workers))  # both are used

                first.send_signal(signal.SIGTERM)
                first.wait(60)
                until(lambda: len(workers(client)) == 1)
                load.more()

                cluster.add()
                until(lambda: len(workers(client)) == 2)
                kill_tree(second)
                load.more()
                until(lambda: len(workers(client)) == 1)
                until(lambda: client.status().state == "SERVING")  # once the node counts as gone

                cluster.add()
                until(lambda: len(workers(client)) == 2)
                load.more()
            assert sum(w.restarts for w in client.status().workers) == 0
            assert server.poll() is None


@pytest.mark.slow
def test_the_server_serves_on_without_the_head_and_says_so():
    with Cluster() as cluster:
        cluster.add()
        cluster.add()
        with cluster.serving() as (server, address), groupconv.connect(address, timeout=60) as client:
            until(lambda: len(workers(client)) == 2)
            with Load(client) as load:
                load.more()
                kill_tree(cluster.head)
                until(lambda: client.status().state == "DEGRADED")
                assert "the head of the Ray cluster has not answered" in client.status().trouble
                load.more(50)
            assert server.poll() is None


@pytest.mark.slow
def test_sigterm_under_load_ends_what_runs_and_refuses_the_rest():
    with Cluster() as cluster:
        cluster.add()
        with cluster.serving() as (server, address), groupconv.connect(address, timeout=60) as client:
            layer = client.load_layer("end", W, None, ConvSpec(groups=2))
            want, refused, answered = layer(X), [], []

            def ask():
                try:
                    while True:
                        np.testing.assert_array_equal(layer(X), want)
                        answered.append(1)
                except UnavailableError as error:
                    refused.append(error)

            with ThreadPoolExecutor(4) as pool:
                asking = [pool.submit(ask) for _ in range(4)]
                until(lambda: len(answered) > 20)
                server.send_signal(signal.SIGTERM)
                for future in asking:
                    future.result(60)
            assert len(refused) == 4
            assert server.wait(60) == 0


@pytest.mark.slow
def test_chaos():
    """Workers and nodes die at random for a while; every answer is right, none is missing."""
    seconds, seed = float(os.environ.get("GROUPCONV_CHAOS_SECONDS", "120")), random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    killed = {"worker": 0, "node": 0}
    with Cluster() as cluster:
        nodes = [cluster.add() for _ in range(3)]
        with cluster.serving() as (server, address), groupconv.connect(address, timeout=60) as client:
            until(lambda: len(workers(client)) == 3)
            end = time.monotonic() + seconds
            with Load(client, threads=4, rate=40) as load:
                while time.monotonic() < end or not all(killed.values()):
                    load.more(dice.randrange(5, 60))
                    node = dice.choice(nodes)
                    actors = [p for p in children(node) if p.name().startswith("ray::Worker")]
                    if dice.random() < 0.3:
                        kill_tree(node)
                        nodes[nodes.index(node)] = cluster.add()
                        killed["node"] += 1
                    elif actors:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            dice.choice(actors).kill()
                            killed["worker"] += 1
            print(f"{load.answers} answers, worst {load.worst:.2f} s, killed {killed}")
            until(lambda: len(workers(client)) == 3)
            assert client.status().state == "SERVING"
            assert server.poll() is None


def children(process):
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
