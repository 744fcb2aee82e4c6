"""What test_gang.py runs in a process of its own: one process has one Ray."""

import os
import signal
import time
from threading import Event, Thread

import numpy as np
from networks import mixed_cuts, towers

from groupconv.errors import DeadlineExceededError
from groupconv_server.executors import create_executor
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import NetworkCall
from waiting import until

X = np.random.default_rng(0).standard_normal((1, 4, 60, 60)).astype(np.float32)
MODEL = read_model(towers().SerializeToString())
KILLS = 2


def planner(_given, workers):
    return mixed_cuts(Optimized(MODEL).canonical({"x": X.shape}), workers)


def run(executor, cut, seconds=120.0):
    call = NetworkCall("towers", 1, {"x": X}, ("y",), spare=2**40, cut=cut, planner=planner)
    return executor.run_network(call, MODEL, Job(time.monotonic() + seconds))


def same(ran, want):
    np.testing.assert_allclose(ran.outputs["y"], want, rtol=1e-5, atol=1e-6)


def check_outputs(executor, want):
    """Workers share a network, and the coordinator brings each element once."""
    for cut in ("rows", "channels", "planned"):
        for _ in range(3):
            ids, ran = run(executor, cut)
            assert (ids, ran.cut) == ("ray-0,ray-1", cut)
            same(ran, want)
            assert ran.coordinator_bytes <= 1.05 * (X.nbytes + want.nbytes)


def check_deadline(executor, want):
    """One worker is stopped, so the other one waits for it until the deadline. Then both take part again."""
    victim = executor.membership.ready()[1].facts["pid"]
    os.kill(victim, signal.SIGSTOP)
    try:
        run(executor, "rows", seconds=0.5)
    except DeadlineExceededError:
        pass
    else:
        raise AssertionError("a worker that is stopped has answered")
    finally:
        os.kill(victim, signal.SIGCONT)

    def together():
        ids, ran = run(executor, "rows")
        same(ran, want)
        return ids == "ray-0,ray-1"

    until(together, 60)


def check_kills(executor, want):
    """Workers are killed while two callers call: no call fails, no answer is wrong, and both take part again."""
    failed, wrong, cuts, done = [], [], [], Event()

    def call():
        while not done.is_set():
            try:
                _, ran = run(executor, "rows")
                cuts.append(ran.cut)
                if not np.allclose(ran.outputs["y"], want, rtol=1e-5, atol=1e-6):
                    wrong.append(ran)
            except Exception as error:  # noqa: BLE001
                failed.append(error)

    def cut_again(before):
        until(lambda: "rows" in cuts[before:] or failed, 120)

    callers = [Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for number in range(KILLS):
        cut_again(len(cuts))
        slot = executor.membership.ready()[number % 2]
        restarts = slot.restarts
        os.kill(slot.facts["pid"], signal.SIGKILL)
        until(lambda slot=slot, restarts=restarts: slot.restarts > restarts and slot.ready, 120)
    cut_again(len(cuts))
    done.set()
    for caller in callers:
        caller.join()
    assert not failed, failed
    assert not wrong
    print(f"{len(cuts)} calls, {cuts.count('rows')} of them cut")


if __name__ == "__main__":
    executor = create_executor("ray", workers=2, threads=1, engine="cpu")
    try:
        want = run(executor, "nothing")[1].outputs["y"]
        for check in (check_outputs, check_deadline, check_kills):
            check(executor, want)
            print(check.__name__, "holds")
    finally:
        executor.close()
