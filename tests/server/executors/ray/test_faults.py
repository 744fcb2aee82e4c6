"""What Ray's workers and its head may do to a server, and what requests see of it."""

import contextlib
import os
import signal
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2

from groupconv import ConvSpec, Step
from groupconv.errors import CancelledError, DeadlineExceededError, InternalError
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors.lanes.dispatch import Dispatch
from groupconv_server.health import DEGRADED, NOT_SERVING, SERVING, Health
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.repository import Repository
from groupconv_worker.job import Job
from tasks import task_of
from waiting import until

pytestmark = pytest.mark.ray
RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((2, 8, 20, 20)), RNG.standard_normal((8, 4, 3, 3))
STEPS = [Step(W, None, ConvSpec(groups=2))]


def whole(executor):
    """Wait until all workers are there; one that was killed just now may still be taken for ready."""
    until(lambda: len(executor.workers()) == 2 and all(map(runs, executor.membership.slots)))


def runs(slot):
    try:
        return psutil.Process(slot.facts["pid"]).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(slot):
    os.kill(slot.facts["pid"], signal.SIGKILL)


@contextlib.contextmanager
def hanging(slots):
    """Workers that are there, and do nothing."""
    processes = [psutil.Process(slot.facts["pid"]) for slot in slots]
    for process in processes:
        process.suspend()
    try:
        until(lambda: all(process.status() == psutil.STATUS_STOPPED for process in processes))
        yield
    finally:
        for process in processes:
            process.resume()


def head():
    (found,) = [p for p in psutil.Process().children(recursive=True) if p.name() == "gcs_server"]
    return found


def heavy(worker):
    """A shard that takes its worker a while."""
    return task_of(np.ones((4, 16, 96, 96)), np.ones((64, 16, 9, 9)), worker=worker)


def test_what_ray_opens_is_for_this_machine_and_for_who_has_the_token(ray_executor):
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) > 3
    assert {address.ip.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}
    environment = head().environ()
    assert environment["RAY_AUTH_MODE"] == "token"
    token = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64


def test_a_shard_that_kills_workers_is_given_up_and_named_and_others_go_on(ray_executor):
    whole(ray_executor)
    coordinator = Coordinator(ray_executor)
    want = coordinator.convolve(X, STEPS).output
    done = threading.Event()

    def ask():
        answers = 0
        while not done.is_set():
            np.testing.assert_array_equal(coordinator.convolve(X, STEPS).output, want)
            answers += 1
        return answers

    poison = heavy(ray_executor.workers()[0])

    def die():  # whoever runs the shard, as it would by a bug of a library
        while not done.is_set():
            for slot in ray_executor.membership.ready():
                if any(flight.task is poison for flight in slot.flights):
                    with contextlib.suppress(ProcessLookupError):
                        kill(slot)
            time.sleep(0.001)

    with ThreadPoolExecutor(4) as pool:
        asking, killing = [pool.submit(ask) for _ in range(3)], pool.submit(die)
        try:
            with pytest.raises(InternalError, match=r"shard 0 \(input \[4, 16, 96, 96\].* given up: \d+ workers"):
                ray_executor.run([poison])
        finally:
            done.set()
        killing.result()
        assert all(future.result(60) for future in asking)
    whole(ray_executor)


def test_the_head_is_started_again_and_replaces_workers_that_were_lost_without_it(ray_executor):
    whole(ray_executor)
    coordinator = Coordinator(ray_executor)
    want = coordinator.convolve(X, STEPS).output
    before = head().pid
    head().kill()
    np.testing.assert_array_equal(coordinator.convolve(X, STEPS).output, want)
    kill(ray_executor.membership.slots[0])
    for _ in range(5):
        np.testing.assert_array_equal(coordinator.convolve(X, STEPS).output, want)
    whole(ray_executor)
    assert head().pid != before
    assert ray_executor.trouble() == ""


def test_health_follows_the_workers(ray_executor, monkeypatch):
    whole(ray_executor)
    health = Health(ray_executor, ["a.Service"])

    def answer(service="a.Service"):
        return health.servicer.Check(health_pb2.HealthCheckRequest(service=service), None).status

    status = health_pb2.HealthCheckResponse
    assert answer() == status.NOT_SERVING
    health.start()
    try:
        assert (answer(), answer("")) == (status.SERVING, status.SERVING)
        assert health.state() == (SERVING, "")
        lost = ray_executor.membership.slots[0]
        monkeypatch.setattr(ray_executor.membership, "_restart", lambda: None)  # not before we have looked
        kill(lost)
        Coordinator(ray_executor).convolve(X, STEPS)
        while (state := health.state()) == (SERVING, ""):  # until a shard met the loss
            Coordinator(ray_executor).convolve(X, STEPS)
        assert state == (DEGRADED, f"not there: {lost.id}")
        monkeypatch.undo()
        whole(ray_executor)
        assert health.state() == (SERVING, "")
    finally:
        health.stop()
    assert answer() == status.NOT_SERVING
    assert health.state()[0] == NOT_SERVING


def test_without_a_worker_a_request_waits_for_one_and_health_says_so(ray_executor):
    whole(ray_executor)
    coordinator = Coordinator(ray_executor)
    want = coordinator.convolve(X, STEPS).output
    health = Health(ray_executor, [])
    for slot in list(ray_executor.membership.slots):
        kill(slot)
        ray_executor.membership.lost(slot, slot.actor)
    assert health.state()[0] == NOT_SERVING
    np.testing.assert_array_equal(coordinator.convolve(X, STEPS).output, want)
    whole(ray_executor)
    assert health.state() == (SERVING, "")


def test_a_worker_has_its_layers_before_it_takes_shards_again(ray_executor):
    whole(ray_executor)
    layers = Layers(ray_executor.forget, capacity=2**20)
    coordinator = Coordinator(ray_executor)
    repository = Repository(layers, coordinator=coordinator)
    repository.load("back", STEPS, [(X.shape, X.dtype)])
    sent = []
    send = Dispatch._send
    ray_executor.welcome(repository.prepare)
    try:
        for slot in ray_executor.membership.slots:
            kill(slot)
            ray_executor.membership.lost(slot, slot.actor)
            whole(ray_executor)
        Dispatch._send = lambda self, attempt, *a, **k: sent.append(attempt.weights) or send(self, attempt, *a, **k)
        with layers.using("back") as layer:
            call = coordinator.compile(X.shape, X.dtype, layer.steps)
            for _ in range(4):  # as planned; a request on its own may try another cut, which nobody has prepared
                coordinator.run_plan(coordinator.planner.plan(call.problems, ray_executor.workers()), X, call)
        assert sent
        assert not any(sent)
    finally:
        ray_executor.welcome(None)
        Dispatch._send = send
        layers.unload("back")


def test_a_late_shard_is_sent_to_a_second_worker_where_that_is_wanted(ray_executor):
    whole(ray_executor)
    coordinator = Coordinator(ray_executor)
    want = coordinator.convolve(X, STEPS).output
    stopped = ray_executor.membership.slots[0]
    task = heavy(stopped.id)
    ray_executor._hedge = 0.3
    try:
        with hanging([stopped]):
            ((report,),) = ray_executor.run([task], job=Job(time.monotonic() + 60))
    finally:
        ray_executor._hedge = None
    assert report.worker != stopped.id
    np.testing.assert_array_equal(coordinator.convolve(X, STEPS).output, want)


def test_a_caller_who_has_gone_is_not_waited_for(ray_executor):
    whole(ray_executor)
    coordinator = Coordinator(ray_executor)
    want = coordinator.convolve(X, STEPS).output
    with hanging(ray_executor.membership.slots), pytest.raises(CancelledError):
        coordinator.convolve(X, STEPS, job=Job(alive=lambda: False))
    np.testing.assert_array_equal(coordinator.convolve(X, STEPS).output, want)
    assert coordinator.running == 0


def test_a_deadline_ends_the_wait_for_a_worker_that_hangs_and_nothing_is_left_over(ray_executor):
    whole(ray_executor)
    coordinator = Coordinator(ray_executor)
    want = coordinator.convolve(X, STEPS).output
    with hanging(ray_executor.membership.slots), pytest.raises(DeadlineExceededError):
        coordinator.convolve(X, STEPS, job=Job(time.monotonic() + 0.3))
    np.testing.assert_array_equal(coordinator.convolve(X, STEPS).output, want)
    assert coordinator.running == 0
