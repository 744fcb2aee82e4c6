"""Requests that are joined: each gets its own answer, to the bit, and its own error."""

import itertools
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv import ConvSpec, Step
from groupconv.errors import (
    CancelledError,
    DeadlineExceededError,
    InvalidArgumentError,
    UnavailableError,
)
from groupconv_server.coordinator.batching import Batcher
from groupconv_server.coordinator.batching_benefit import EVERY, IDLE, TRIES, WINDOW, BatchingBenefit
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.resident import resident_steps
from groupconv_server.executors.local import LocalExecutor
from groupconv_worker.job import Job

SPEC = ConvSpec(padding=1, groups=2)
RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((4, 2, 3, 3)).astype(np.float32)
STEPS = resident_steps("layer", 1, [Step(KERNEL, None, SPEC)])


class Held(LocalExecutor):
    """The reference engine, whose runs wait until they are let go, in a thread's own time."""

    def __init__(self):
        super().__init__(workers=1, threads=1, engine="reference")
        self.go = threading.Semaphore(0)
        self.batches = []
        self.begun = threading.Semaphore(0)
        self.fail = []

    def run(self, tasks, *, job=None, among=1):
        self.batches.append(len(tasks[0].x))
        self.begun.release()
        assert self.go.acquire(timeout=60)
        if self.fail and len(tasks[0].x) in self.fail:
            raise UnavailableError("no worker is left")
        return super().run(tasks, job=job, among=among)


@pytest.fixture
def held():
    executor = Held()
    yield executor
    executor.close()


def joining(executor, most=8, delay=0.0):
    """A batcher that has found joining to pay."""
    batcher = Batcher(Coordinator(executor), most=most, delay=delay)
    batcher._benefit = lambda asked: PAYS
    return batcher


class Pays(BatchingBenefit):
    """Always."""

    def __init__(self):
        super().__init__("a layer")
        self.pays = True

    def most(self, most):
        return most

    def ran(self, samples, now):
        """Nothing is learnt."""


PAYS = Pays()


def convolve(batcher, x, steps, *, priority=0, deadline=None, alive=lambda: True):
    coordinator = batcher.coordinator
    call = coordinator.compile(x.shape, x.dtype, steps)
    return batcher.execute(call, x, Job(deadline, alive, priority), None)


class Calls:
    """Requests in threads of their own."""

    def __init__(self, batcher):
        self.batcher = batcher
        self.outcomes = {}
        self.threads = []

    def ask(self, name, x, steps=STEPS, **options):
        def run():
            try:
                self.outcomes[name] = convolve(self.batcher, x, steps, **options)
            except Exception as error:  # noqa: BLE001 - told below
                self.outcomes[name] = error

        thread = threading.Thread(target=run)
        before = self.batcher._count, self.batcher._running
        thread.start()
        self.threads.append(thread)
        while thread.is_alive() and (self.batcher._count, self.batcher._running) == before:  # in order, in the queue
            time.sleep(0.001)

    def join(self):
        for thread in self.threads:
            thread.join(60)
        return self.outcomes


def image(n=1, size=6, channels=4):
    return RNG.standard_normal((n, channels, size, size)).astype(np.float32)


def alone(x, steps=STEPS):
    executor = LocalExecutor(workers=1, threads=1, engine="reference")
    try:
        return Coordinator(executor).convolve(x, steps).output
    finally:
        executor.close()


def test_those_that_wait_run_as_one_and_the_first_at_once(held):
    calls = Calls(joining(held))
    images = [image(n) for n in (1, 1, 2, 1, 3)]
    for i, x in enumerate(images):
        calls.ask(i, x)
        if not i:
            assert held.begun.acquire(timeout=60)  # no delay when idle
    held.go.release(9)
    outcomes = calls.join()
    for i, x in enumerate(images):
        np.testing.assert_array_equal(outcomes[i].output, alone(x))
        assert outcomes[i].output.base is None  # its own, not a part of the others'
    assert held.batches == [1, 7]
    assert calls.batcher.sizes("layer", 1) == {1: 1, 7: 1}
    assert outcomes[3].report.phases["queue"] > 0
    assert calls.batcher.coordinator.requests == 5


@given(st.lists(st.integers(1, 3), min_size=1, max_size=10), st.integers(2, 8))
def test_answers_are_to_the_bit_those_of_requests_alone(sizes, most):
    executor = LocalExecutor(workers=1, threads=1, engine="reference")
    try:
        calls = Calls(joining(executor, most))
        images = [image(n) for n in sizes]
        for i, x in enumerate(images):
            calls.ask(i, x)
        outcomes = calls.join()
        for i, x in enumerate(images):
            np.testing.assert_array_equal(outcomes[i].output, alone(x))
        runs = calls.batcher.sizes("layer", 1)
        assert sum(samples * count for samples, count in runs.items()) == sum(sizes)
    finally:
        executor.close()


def test_only_like_requests_are_joined(held):
    calls = Calls(joining(held))
    calls.ask("first", image())
    other = resident_steps("layer", 2, [Step(KERNEL, None, SPEC)])
    asked = {
        "a": (image(), STEPS), "size": (image(size=7), STEPS), "dtype": (image().astype(np.int8), STEPS),
        "version": (image(), other), "b": (image(), STEPS),
    }  # fmt: skip
    for name, (x, steps) in asked.items():
        calls.ask(name, x, steps)
    held.go.release(9)
    outcomes = calls.join()
    for name, (x, steps) in asked.items():
        np.testing.assert_array_equal(outcomes[name].output, alone(x, steps))
    assert sorted(held.batches) == [1, 1, 1, 1, 2]


def test_requests_without_a_layer_are_joined_if_their_kernels_are_the_same_to_the_bit(held):
    calls = Calls(joining(held))
    bias = np.arange(4, dtype=np.float32)
    nearly = KERNEL.copy()
    nearly[0, 0, 0, 0] = np.nextafter(nearly[0, 0, 0, 0], 9)
    asked = [Step(KERNEL, None, SPEC), Step(KERNEL.copy(), None, SPEC), Step(nearly, None, SPEC),
             Step(KERNEL, bias, SPEC), Step(KERNEL.copy(), bias.copy(), SPEC)]  # fmt: skip
    calls.ask("first", image())
    images = [image() for _ in asked]
    for i, step in enumerate(asked):
        calls.ask(i, images[i], [step])
    held.go.release(9)
    outcomes = calls.join()
    for i, step in enumerate(asked):
        np.testing.assert_array_equal(outcomes[i].output, alone(images[i], [step]))
    assert sorted(held.batches) == [1, 1, 2, 2]


def test_priority_then_the_order_they_came(held):
    calls = Calls(joining(held))
    calls.ask("first", image())
    order = []
    steps = {name: resident_steps(name, 1, [Step(KERNEL, None, SPEC)]) for name in "abcd"}
    for name, priority in (("a", 0), ("b", 2), ("c", 1), ("d", 2)):
        calls.ask(name, image(), steps[name], priority=priority)
    run = calls.batcher.coordinator.execute

    def recorded(call, *arguments):
        order.append(call.steps[0].layer)
        return run(call, *arguments)

    calls.batcher.coordinator.execute = recorded
    held.go.release(9)
    calls.join()
    assert order == ["c", "b", "d", "a"]


def test_what_cannot_be_meets_no_others_and_joined_size_is_bounded(held):
    calls = Calls(Batcher(Coordinator(held, Limits(message_bytes=2**17)), most=4))
    calls.batcher._benefit = lambda asked: PAYS
    calls.ask("first", image())
    for i in range(6):
        calls.ask(i, image())
    with pytest.raises(InvalidArgumentError, match="channels"):
        convolve(calls.batcher, image(channels=6), STEPS)
    held.go.release(9)
    outcomes = calls.join()
    assert all(not isinstance(o, Exception) for o in outcomes.values())
    assert held.batches == [1, 4, 2]


def test_a_run_that_fails_is_taken_apart(held):
    """Whoever caused it has the error, the others have their answers."""
    held.fail = [4]
    calls = Calls(joining(held))
    calls.ask("first", image())
    images = [image() for _ in range(4)]
    for i, x in enumerate(images):
        calls.ask(i, x)
    held.go.release(99)
    outcomes = calls.join()
    for i, x in enumerate(images):
        np.testing.assert_array_equal(outcomes[i].output, alone(x))
    assert held.batches == [1, 4, 1, 1, 1, 1]


def test_a_request_that_waited_and_failed_leaves_no_array(held, without_collector):
    held.fail = [2]
    calls = Calls(joining(held))
    calls.ask("first", image())
    x = image(2)
    gone = weakref.ref(x)
    calls.ask("fails", x)
    del x
    held.go.release(99)
    assert isinstance(calls.join().pop("fails"), UnavailableError)
    calls.threads.clear()
    assert gone() is None


def test_a_deadline_ends_waiting_and_no_other_request(held):
    calls = Calls(joining(held))
    calls.ask("first", image())
    calls.ask("late", image(), deadline=time.monotonic() + 0.05)
    calls.ask("other", image(), deadline=time.monotonic() + 60)
    calls.threads[1].join(60)
    assert isinstance(calls.outcomes["late"], DeadlineExceededError)
    held.go.release(9)
    outcomes = calls.join()
    assert not isinstance(outcomes["other"], Exception)
    assert held.batches == [1, 1]


def test_a_deadline_during_the_joined_run_ends_no_other_request():
    for seconds in (0.3, 3.0, 30.0):  # until the run begins before it passes
        held = Held()
        calls = Calls(joining(held))
        calls.ask("first", image())
        assert held.begun.acquire(timeout=60)
        calls.ask("leads", image())
        calls.ask("late", image(), deadline=time.monotonic() + seconds)
        held.go.release()
        assert held.begun.acquire(timeout=60)
        calls.threads[2].join(60)
        assert isinstance(calls.outcomes["late"], DeadlineExceededError)
        held.go.release(9)
        assert not isinstance(calls.join()["leads"], Exception)
        held.close()
        if held.batches == [1, 2]:
            return
    raise AssertionError(held.batches)


def test_who_has_gone_is_not_run(held):
    calls = Calls(joining(held))
    calls.ask("first", image())
    there = itertools.repeat(True)
    gone = threading.Event()
    calls.ask("goes", image(), alive=lambda: not gone.is_set())
    calls.ask("stays", image(), alive=lambda: next(there))
    gone.set()
    held.go.release(9)
    outcomes = calls.join()
    assert isinstance(outcomes["goes"], CancelledError)
    assert not isinstance(outcomes["stays"], Exception)
    assert held.batches == [1, 1]


def test_a_delay_waits_for_others_and_never_where_nobody_waits(held):
    calls = Calls(joining(held, most=2, delay=60.0))
    calls.ask("first", image())
    assert held.begun.acquire(timeout=60)
    calls.ask("leads", image())
    held.go.release()  # now it leads, and waits
    calls.threads[0].join(60)
    calls.ask("joins", image())
    held.go.release(9)
    calls.join()
    assert held.batches == [1, 2]


def test_one_is_off(held):
    held.go.release(9)
    batcher = Batcher(Coordinator(held))
    x = image()
    np.testing.assert_array_equal(convolve(batcher, x, STEPS).output, alone(x))
    assert batcher.sizes("layer", 1) == {}
    assert batcher._count == 0


@pytest.mark.parametrize(("joined", "pays"), [(0.5, True), (0.99, False), (2.0, False)])
def test_what_does_not_pay_turns_itself_off(joined, pays, caplog):
    caplog.set_level("INFO", logger="groupconv_server.coordinator.batching_benefit")
    benefit, now = BatchingBenefit("conv2 on [4, 6, 6] float32"), 0.0

    def run(samples, joined):
        nonlocal now
        taken = {1: 0, 8: 0}
        for _ in range(samples // 8):
            most = benefit.most(8)
            for _ in range(8 // most):
                now += 1e-3 * (1 if most == 1 else 8 * joined)
                benefit.ran(most, now)
            taken[most] += 8
        return taken

    first = run(2 * TRIES * WINDOW + WINDOW, joined)
    assert min(first.values()) >= TRIES * WINDOW - 8
    assert benefit.pays is pays
    later = run(2 * EVERY * WINDOW, joined)
    best, other = (8, 1) if pays else (1, 8)
    assert 0 < later[other] <= 3 * WINDOW  # probes, which notice if that changes
    assert later[best] >= (2 * EVERY - 3) * WINDOW
    assert [("off" in r.message, "conv2" in r.message) for r in caplog.records] == [(not pays, True)]
    run(4 * TRIES * EVERY * WINDOW, 2.0 if pays else 0.5)  # the other way round
    assert benefit.pays is not pays


def test_idle_time_is_not_counted():
    benefit = BatchingBenefit("conv2")
    for i in range(10 * WINDOW):
        benefit.ran(1, i * 2 * IDLE)
    assert benefit.most(8) == 1
    assert "not yet known" in str(benefit)


def test_a_real_server_joins_and_tells(tmp_path):
    import groupconv
    from groupconv_server.config import Config
    from groupconv_server.server import Server

    config = Config(port=0, executor="local", workers=1, threads=1, max_batch=8)
    with Server(config) as server, groupconv.connect(server.address) as client:
        server.batcher._benefit = lambda asked: PAYS
        layer = client.load_layer("layer", KERNEL, None, SPEC)
        images = [image(size=40) for _ in range(8)]
        wanted = [layer(x) for x in images]
        wrong = []

        def work(i):
            wrong.extend(i for _ in range(30) if not np.allclose(layer(images[i]), wanted[i], rtol=1e-5, atol=1e-5))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        told = layer.statistics()
        assert told.requests == told.samples == 248
        assert sum(samples * runs for samples, runs in told.batches.items()) == 248
        assert max(told.batches) > 1
        assert replace(told, batches={}) != told
        sample = server.metrics.registry.get_sample_value
        assert sample("groupconv_batch_samples_count") == sum(told.batches.values())
