"""The budget of threads: all work is done once, failures surface, and nobody starts threads of their own."""

import os
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv_worker.budget import granted
from groupconv_worker.cpu.kernels.atomic import array, job, load, store
from groupconv_worker.cpu.program import Program
from groupconv_worker.cpu.stages import KernelStage
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool


@given(threads=st.integers(1, 4), tasks=st.integers(0, 20), limit=st.integers(1, 5))
def test_every_task_is_done_once(threads, tasks, limit):
    team, done = Team(threads), []
    team.run(lambda a, b: done.extend(range(a, b)), tasks, threads=limit)
    team.close()
    assert sorted(done) == list(range(tasks))


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_in_any_part_reaches_the_caller(failing):
    def work(first: int, last: int) -> None:
        if first <= failing < last:
            raise ArithmeticError(str(failing))

    team = Team(2)
    with pytest.raises(ArithmeticError, match=str(failing)):
        team.run(work, 2)
    team.close()


@pytest.mark.parametrize("failing", [0, 1])
def test_work_that_failed_leaves_no_array(failing, without_collector):
    team, arrays = Team(2), []

    def call():
        x = np.empty(8)
        arrays.append(weakref.ref(x))

        def work(first: int, last: int) -> None:
            if first <= failing < last:
                raise ArithmeticError(len(x))

        team.run(work, 2)

    with suppress(ArithmeticError):
        call()
    team.close()
    assert arrays[0]() is None


def test_many_callers_share_one_team():
    team = Team(3)
    counts = [np.zeros(50, np.int64) for _ in range(8)]

    def call(count):
        def work(first, last):
            count[first:last] += 1

        for _ in range(200):
            team.run(work, len(count))

    callers = [threading.Thread(target=call, args=(count,)) for count in counts]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    team.close()
    assert all((count == 200).all() for count in counts)


def test_a_thread_that_is_granted_itself_alone_gets_no_helpers():
    team, barrier = Team(2), threading.Barrier(2)
    by: set[int] = set()
    token = granted.set(1)
    try:
        team.run(lambda *_: by.add(threading.get_ident()), 50)
        assert by == {threading.get_ident()}
    finally:
        granted.reset(token)
    team.run(lambda *_: barrier.wait(60), 2)  # which takes two
    team.close()


@job()
def meet(at, first, last):
    """Each of two tasks tells whether it met the other one, which only another thread can do meanwhile."""
    words = array(at, np.int64)
    came, met = words[0], words[1]
    for task in range(first, last):
        store(came + 8 * task, 1)
        for _ in range(2_000_000_000):
            if load(came + 8 * (1 - task)):
                store(met + 8 * task, 1)
                break


def test_a_helper_that_was_about_to_sleep_does_what_is_announced():
    team = Team(2)
    buffers, unused = BufferPool(), np.zeros(1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(30)  # the helper, done looking out, waits for the interpreter all the while
    try:
        for _ in range(2):
            came, met = np.zeros(2, np.int64), np.zeros(2, np.int64)
            Program(team, buffers, [KernelStage(meet.address, (came, met), 2)]).run(unused, unused)
            assert met.tolist() == [1, 1]
            end = time.perf_counter() + 0.01
            while time.perf_counter() < end:
                pass
    finally:
        sys.setswitchinterval(interval)
        team.close()


def test_a_helper_that_is_held_up_leaves_its_other_parts_to_the_caller():
    team, held, done, let_go = Team(2), threading.Event(), [], []

    def work(first, last):
        if threading.current_thread() is not threading.main_thread():
            let_go.append(held.wait(60))
        done.append((first, last))
        if len(done) == 3:  # all parts but the one that the helper holds
            held.set()

    team.run(work, 4)
    team.close()
    assert sorted(done) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert all(let_go)


def test_a_job_that_is_over_holds_on_to_nothing():
    class Arrays:
        pass

    team, arrays = Team(2), Arrays()
    gone = weakref.ref(arrays)
    for _ in range(3):
        team.run(lambda _first, _last, _held=arrays: None, 4)
    del arrays
    assert gone() is None
    team.close()


COUNT = """
import os
import threading
import numpy as np
from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_worker.engines import Problem, create_engine
from threadpoolctl import threadpool_limits
import groupconv_worker.cpu.engine

def count():
    return len(os.listdir("/proc/self/task"))

rng = np.random.default_rng(0)
blas = threadpool_limits(limits=2, user_api="blas")  # one pool per process, however many engines use it
before = count()  # with what importing the libraries starts
engines = [create_engine("cpu", threads=2) for _ in range(2)]
for groups in (1, 4, 32):
    for k in (1, 3):
        x = rng.standard_normal((1, 32, 30, 30), np.float32)
        w = rng.standard_normal((32, 32 // groups, k, k), np.float32)
        p = Problem(resolve(ConvSpec(groups=groups), x.shape, w.shape), types_of(x.dtype, w.dtype))
        out = np.empty(p.geometry.output_shape, np.float32)
        for engine in engines:
            for resident in (False, True):
                engine.prepare(p, w, resident=resident).run(x, out)
print(count() - before)
for engine in engines:
    engine.close()
print(threading.active_count() - 1)  # the kernel may list an ended thread for a moment longer
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux' /proc")
def test_two_engines_of_two_threads_add_one_thread_each():
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "GROUPCONV_TUNE": "off"}
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, check=True)
    assert [int(n) for n in done.stdout.split()] == [2, 0]
