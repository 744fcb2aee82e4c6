"""Work beside a server: it waits for quiet, gives way to requests, and ends with the server."""

import logging
import threading

import numpy as np
import pytest

import groupconv_server.layers.background as background
from groupconv import ConvSpec
from groupconv.convolution.steps import Step
from groupconv.errors import UnavailableError
from groupconv_server.coordinator.calibration import calibrate_workers
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors import create_executor
from groupconv_server.layers.background import Background
from groupconv_server.planner.rates import CLASSES

X, W = np.ones((1, 4, 8, 8), np.float32), np.ones((4, 4, 3, 3), np.float32)


class Watched:
    """An executor that counts its calls, and calls `before` ahead of each."""

    def __init__(self, executor):
        self._executor, self.calls, self.before = executor, 0, lambda: None

    def __getattr__(self, name):
        return getattr(self._executor, name)

    def run(self, tasks, **options):
        self.calls += 1
        self.before()
        return self._executor.run(tasks, **options)


@pytest.fixture
def coordinator(monkeypatch):
    monkeypatch.setattr(background, "PAUSE", 0.001)
    monkeypatch.setattr(background, "QUIET", 0.001)
    executor = create_executor("local", workers=1, threads=1, engine="reference")
    coordinator = Coordinator(Watched(executor))
    coordinator.planner.statistics.calibrated({}, frozenset(range(len(CLASSES))))
    yield coordinator
    executor.close()


def request(coordinator):
    return coordinator.convolve(X, [Step(W, None, ConvSpec())])


def test_workers_are_measured_until_every_class_is_known(coordinator):
    work = Background(coordinator)
    work.measure()
    work.wait()
    assert coordinator.planner.statistics.unknown == frozenset()
    assert list(coordinator.planner.statistics.known()) == ["local-0"]


def test_a_request_ends_a_measurement_which_is_made_again(coordinator):
    """The request goes first: not one more convolution is measured before it."""
    executor, seen = coordinator.executor, []

    def interrupt():
        if not seen and executor.calls == 3:
            seen.append(executor.calls)
            thread = threading.Thread(target=request, args=[coordinator])
            thread.start()
            thread.join()

    executor.before = interrupt
    assert not calibrate_workers(coordinator)
    assert executor.calls == 4  # three of the measurement, one of the request
    assert not coordinator.planner.statistics.known()
    work = Background(coordinator)
    work.measure()
    work.wait()
    assert coordinator.planner.statistics.known()


def test_nothing_begins_while_a_request_runs(coordinator):
    executor, inside, go_on = coordinator.executor, threading.Event(), threading.Event()
    executor.before = lambda: (inside.set(), go_on.wait(60))
    caller = threading.Thread(target=request, args=[coordinator])
    caller.start()
    assert inside.wait(60)
    work = Background(coordinator)
    work.measure()
    work.compile_catalogue()
    executor.before = lambda: None
    work.stop()  # both threads wait for the request, and end without having done anything
    assert executor.calls == 1
    go_on.set()
    caller.join()


def test_workers_are_measured_again_as_long_as_something_is_unknown(coordinator, monkeypatch):
    found = iter([False, False, False, True])
    monkeypatch.setattr(background, "calibrate_workers", lambda coordinator, budget: next(found))
    work = Background(coordinator)
    work.measure()
    work.wait()
    assert list(found) == []


def test_the_catalogue_is_sent_twice_to_every_worker_but_for_what_would_be_in_the_way(coordinator, monkeypatch):
    few = dict(list(background.catalogue().items())[:3])
    monkeypatch.setattr(background, "catalogue", lambda: few)
    work = Background(coordinator)
    monkeypatch.setattr(background, "LARGEST", 0)
    work.compile_catalogue()
    work.wait()
    assert coordinator.executor.calls == 0
    monkeypatch.setattr(background, "LARGEST", 1e12)
    sent = []
    coordinator.executor.run = lambda tasks: sent.extend((task.worker, task.x.shape) for task in tasks)
    work.compile_catalogue()
    work.wait()
    assert sent == [("local-0", layer.geometry.input_shape) for layer in few.values() for _ in range(2)]


def test_workers_that_are_lost_end_it_with_a_line_in_the_log(coordinator, caplog):
    def lost(_):
        raise UnavailableError("every worker is away")

    coordinator.executor.run = lost
    work = Background(coordinator)
    with caplog.at_level(logging.WARNING):
        work.compile_catalogue()
        work.wait()
    assert "every worker is away" in caplog.text
