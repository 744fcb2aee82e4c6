"""What test_gang.py runs in a process of its own: one process has one Ray.

gang_program.py                                  # two workers of this machine
gang_program.py --address A --hosts h0 h1 h2     # this process on host 0, the others are nodes of a cluster at A
gang_program.py --seconds 60                     # a worker is killed every 3 s for so long

With tests/emulation/process in PYTHONPATH, --engine auto gives each worker an emulated GPU, which is slow: EXTENT=32.
"""

import argparse
import os
import signal
import threading
import time
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import ray
from networks import mixed_cuts, model, towers, value
from onnx import helper
from ray.actor import ActorMethod
from ray.exceptions import ObjectStoreFullError

import hosts
from groupconv.errors import CancelledError, DeadlineExceededError, ResourceExhaustedError
from groupconv_server.executors import create_executor
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import NetworkCall
from waiting import until

EVERY = 3.0
"""Seconds from one death to the next."""


def gathering():
    """Each half of the first layer's channels is made from half of the input, and all of them are read by the next."""
    rng = np.random.default_rng(1)
    weights = {f"w{i}": rng.standard_normal(shape).astype(np.float32) / 8 for i, shape in enumerate(SHAPES)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4, group=2),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    extent = X.shape[2]
    return model(nodes, [value("x", X.shape)], [value("y", [1, 32, extent, extent])], weights)


SHAPES = ((32, 2, 3, 3), (32, 32, 3, 3))
EXTENT = int(os.environ.get("EXTENT", "256"))
X = np.random.default_rng(0).standard_normal((1, 4, EXTENT, EXTENT)).astype(np.float32)
MODELS = {"towers": read_model(towers().SerializeToString()), "gathering": read_model(gathering().SerializeToString())}


def run(executor, cut, job=None, network="towers"):
    def planner(_given, nodes):
        return mixed_cuts(Optimized(MODELS[network]).canonical({"x": X.shape}), sum(nodes))

    call = NetworkCall(network, 1, {"x": X}, ("y",), spare=2**40, cut=cut, planner=planner)
    return executor.run_network(call, MODELS[network], job or Job(time.monotonic() + 120))


def same(ran, want):
    assert is_right(ran, want)


def is_right(ran, want):
    """Whether a call's output is as that of one worker but for rounding."""
    return np.allclose(ran.outputs["y"], want, rtol=0, atol=1e-5 * np.abs(want).max())


def check_outputs(executor, want, names):
    """Workers share a network, and the coordinator brings each element once."""
    for network in MODELS:
        for cut in ("rows", "channels", "planned"):
            for _ in range(3):
                ids, ran = run(executor, cut, network=network)
                assert (ids, ran.cut) == ("ray-0,ray-1", cut)
                same(ran, want[network])
                assert ran.coordinator_bytes <= 1.05 * (X.nbytes + want[network].nbytes)


def check_traffic(executor, want, names):
    """What each host sends: the coordinator its input, workers their boxes to each other and the output's parts."""
    runs = 20
    before = [hosts.sent_bytes(name) for name in names]
    for _ in range(runs):
        ran = run(executor, "channels", network="gathering")[1]
    sent = [(after - b) / runs for after, b in zip(map(hosts.sent_bytes, names), before, strict=True)]
    at = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    workers = {slot.id: at[slot.place.node_id] for slot in executor.membership.ready()}
    output = want["gathering"].nbytes
    expected = {hosts.address(0): X.nbytes} | dict.fromkeys(workers.values(), output / len(workers))
    for exchange in ran.exchanges:
        expected[workers[exchange.source]] += exchange.bytes
    for number, found in enumerate(sent):
        share = found / expected[hosts.address(number)]
        print(f"host {number} sent {found / 2**20:.2f} MiB a run, {share:.3f} of what it should")
        assert 1 <= share <= 1.15, sent  # headers, acknowledgements and Ray's own messages come on top


@contextmanager
def stopped_worker(executor, want):
    """One worker is stopped, so the other one waits for it. After that both take part in the next run."""
    victim = executor.membership.ready()[1].facts["pid"]
    os.kill(victim, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(victim, signal.SIGCONT)
    until(lambda: is_shared(executor, want), 60)


def check_deadline(executor, want, names):
    """The deadline ends the run on all workers."""
    with stopped_worker(executor, want), pytest.raises(DeadlineExceededError):
        run(executor, "rows", Job(time.monotonic() + 0.5))


def check_cancel(executor, want, names):
    """A caller that goes away ends the run on all workers."""
    left = threading.Event()
    threading.Timer(0.3, left.set).start()
    with stopped_worker(executor, want), pytest.raises(CancelledError):
        run(executor, "rows", Job(alive=lambda: not left.is_set()))


def check_unsent(executor, want, names):
    """A part that cannot be sent, as the object store is full, ends those that were."""
    send = ActorMethod.remote

    def full(method, *arguments):
        if method._method_name == "run_part" and arguments[0].worker == 1:
            raise ObjectStoreFullError("no space is left")
        return send(method, *arguments)

    until(lambda: is_shared(executor, want), 60)
    with patch.object(ActorMethod, "remote", full), pytest.raises(ResourceExhaustedError, match="no space is left"):
        run(executor, "rows")
    assert is_shared(executor, want)


def check_half_sent(executor, want, names):
    """A worker dies once the other one has its part, or the sending thread fails. The part that was sent ends."""
    first, second = executor.membership.ready()

    def killed():
        os.kill(second.facts["pid"], signal.SIGKILL)
        until(lambda: not psutil.pid_exists(second.facts["pid"]), 20)

    def failed():
        raise MemoryError

    for fault in (killed, failed):
        until(lambda: is_shared(executor, want), 60)
        with pytest.MonkeyPatch.context() as patched:

            def sent(_flight, patched=patched, fault=fault):
                patched.undo()
                fault()

            patched.setattr(second, "sent", sent)
            ids, ran = run(executor, "rows", Job())
        assert "," not in ids
        same(ran, want["towers"])
        ray.get(first.actor.echo.remote(X), timeout=20)  # an actor makes one call after the other
    until(lambda: is_shared(executor, want), 60)


def is_shared(executor, want):
    """Whether all workers share a run."""
    ids, ran = run(executor, "rows")
    same(ran, want["towers"])
    return ids == "ray-0,ray-1"


class Callers:
    """Call until they are left: what failed, what was wrong, and how each call was cut."""

    def __init__(self, executor, want):
        self.failed, self.wrong, self.cuts, self.slowest = [], [], [], 0.0
        self._executor, self._want, self._done = executor, want["towers"], threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(2)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        for thread in self._threads:
            thread.join()
        shared = sum(cut == "rows" for cut in self.cuts)
        print(f"{len(self.cuts)} calls, {shared} shared, the slowest took {self.slowest:.1f} s")
        print(f"{len(self.failed)} failed, {len(self.wrong)} wrong")

    def shared_again(self):
        """Wait for a call that all workers share."""
        before = len(self.cuts)
        until(lambda: "rows" in self.cuts[before:] or self.failed, 120)

    def _call(self):
        while not self._done.is_set():
            start = time.monotonic()
            try:
                _, ran = run(self._executor, "rows")
                if not is_right(ran, self._want):
                    self.wrong.append(ran)
                self.cuts.append(ran.cut)
            except Exception as error:  # noqa: BLE001 - whatever a call raises counts as its failure
                self.failed.append(error)
            self.slowest = max(self.slowest, time.monotonic() - start)


def check_kills(executor, want, names, seconds=2 * EVERY):
    """A worker is killed every few seconds: no call fails, no answer is wrong, and all workers take part again."""
    deaths = 0
    with Callers(executor, want) as callers:
        callers.shared_again()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if ready := executor.membership.ready():
                os.kill(ready[deaths % len(ready)].facts["pid"], signal.SIGKILL)
                deaths += 1
            time.sleep(EVERY)
        until(lambda: len(executor.membership.ready()) == 2, 120)
        callers.shared_again()
    print(f"{deaths} deaths in {seconds:.0f} s")
    assert not callers.failed, callers.failed
    assert not callers.wrong


def check_lost_host(executor, want, names):
    """A host leaves the network in the middle of runs: no call fails, and the other worker answers."""
    with Callers(executor, want) as callers:
        callers.shared_again()
        hosts.cut_off(names[-1])
        try:
            until(lambda: len(executor.membership.ready()) == 1 or callers.failed, 120)
            before = len(callers.cuts)
            until(lambda: len(callers.cuts) > before + 2 or callers.failed, 120)
        finally:
            hosts.connect(names[-1])
    assert not callers.failed, callers.failed
    assert not callers.wrong


def held(executor):
    """Threads, descriptors and mappings of shared memory of the workers' processes."""
    found = []
    for slot in executor.membership.ready():
        process = psutil.Process(slot.facts["pid"])
        shared = sum("memfd:groupconv" in mapping.path for mapping in process.memory_maps(grouped=False))
        found.append((process.num_threads(), process.num_fds(), shared))
    return found


def check_leaks(executor, want, names):
    """A network that is cut again and again leaves no thread, no connection and no memory behind."""
    sharder = executor._sharder

    def once():
        assert is_shared(executor, want)
        executor.forget("towers", 1)

    for _ in range(2):
        once()
    before = held(executor)
    for _ in range(5):
        once()
    assert not sharder.bytes_of("towers", 1)
    until(
        lambda: all(
            n <= b + 1 for now, then in zip(held(executor), before, strict=True) for n, b in zip(now, then, strict=True)
        ),
        20,
    )
    print(f"threads, descriptors, mappings: {before} before, {held(executor)} after")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address")
    parser.add_argument("--hosts", nargs="*", default=[])
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--engine", default="cpu")
    options = parser.parse_args()
    workers = None if options.address else 2
    executor = create_executor("ray", workers=workers, threads=1, engine=options.engine, ray_address=options.address)
    checks = [check_outputs, check_deadline, check_cancel, check_unsent, check_half_sent, check_leaks, check_kills]
    if options.hosts:
        checks = [check_outputs, check_traffic, check_deadline, check_cancel, check_leaks, check_kills, check_lost_host]
    try:
        until(lambda: len(executor.workers()) == 2, 120)
        want = {network: run(executor, "nothing", network=network)[1].outputs["y"] for network in MODELS}
        if options.seconds:
            check_kills(executor, want, options.hosts, options.seconds)
        for check in () if options.seconds else checks:
            start = time.monotonic()
            check(executor, want, options.hosts)
            print(f"{check.__name__} holds ({time.monotonic() - start:.0f} s)", flush=True)
    finally:
        executor.close()
