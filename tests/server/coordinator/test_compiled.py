"""Compiled calls: what a layer's version keeps for an input, used by many threads at once."""

import threading

import numpy as np

from groupconv import ConvSpec, Step
from groupconv_server.coordinator.compiled import KEPT
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.resident import CALLS, CompiledCalls, resident_steps
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.planner import Rates

X, W = np.ones((1, 4, 9), np.float32), np.ones((4, 2, 3), np.float32)
STEPS = resident_steps("edge", 1, [Step(W, None, ConvSpec(groups=2))])


def test_threads_that_come_with_other_plans_find_their_routes():
    executor = LocalExecutor(workers=1, threads=1, engine="reference")
    try:
        coordinator = Coordinator(executor)
        call = coordinator.compile(X.shape, X.dtype, STEPS)
        chains = [coordinator.planner.plan(call.problems, (f"w{i}",))[0] for i in range(2 * KEPT)]
        failed = []

        def look(first: int) -> None:
            try:
                for i in range(3000):
                    chain = chains[(first + i) % len(chains)]
                    assert call.routes(chain)[0].worker == chain.workers[0]
            except BaseException as error:  # noqa: BLE001 - told below
                failed.append(error)

        threads = [threading.Thread(target=look, args=(7 * i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert len(call._routes) <= KEPT
    finally:
        executor.close()


def test_a_call_is_made_once_for_an_input_and_kept_with_the_version():
    executor = LocalExecutor(workers=1, threads=1, engine="reference")
    try:
        coordinator = Coordinator(executor)
        steps = resident_steps("edge", 2, [Step(W, None, ConvSpec(groups=2))])
        call = coordinator.compile(X.shape, X.dtype, steps)
        assert coordinator.compile(X.shape, X.dtype, steps) is call
        assert coordinator.compile(X.shape, X.dtype, steps, reordering=True) is not call
        assert steps[0].calls.inputs() == [(X.shape, X.dtype)]
        np.testing.assert_array_equal(coordinator.execute(call, X).output, coordinator.convolve(X, steps).output)
    finally:
        executor.close()


def test_a_call_keeps_its_plan_until_something_that_it_rests_on_changes():
    executor = LocalExecutor(workers=1, threads=1, engine="reference")
    try:
        coordinator = Coordinator(executor)
        call = coordinator.compile(X.shape, X.dtype, STEPS)
        want = coordinator.execute(call, X).output
        key = executor.workers(), 1
        first = call.plans[key]
        (history, changes), *_ = first.rests_on
        assert history.changes > changes  # its first run was measured
        coordinator.execute(call, X)
        second = call.plans[key]
        assert second is not first
        coordinator.planner.statistics.joined("another", Rates())
        np.testing.assert_array_equal(coordinator.execute(call, X).output, want)
        assert call.plans[key] is not second
    finally:
        executor.close()


def test_the_calls_that_were_made_first_leave():
    calls = CompiledCalls()
    for i in range(CALLS + 3):
        calls.add(((1, 1, i), np.dtype("f4"), False, ""), i)
    assert len(calls.known) == CALLS
    assert calls.inputs()[-1] == ((1, 1, CALLS + 2), np.dtype("f4"))
