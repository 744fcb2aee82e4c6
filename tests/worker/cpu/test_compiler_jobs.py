"""The jobs of the compiling process: bounded, none measured beside a shard, none for a process that is broken."""

import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from compiled_networks import model
from onnx import helper

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_worker.activity import Activity
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.compiler import FAILURES, NICENESS, SHARE, WAITING, Compiler
from groupconv_worker.cpu.compiler_tasks import KernelTask, NetworkTask
from waiting import until


def job(width: int) -> KernelTask:
    f32 = np.dtype("float32")
    return KernelTask(Problem(resolve(ConvSpec(), (1, 1, width), (1, 1, 3)), types_of(f32, f32)), 1, "grouped")


BROKEN = {
    "cannot be started": ("/does/not/exist",),
    "ends": (sys.executable, "-c", ""),
    "answers with something else": (sys.executable, "-c", "print('ready', flush=True); input()"),
    "cannot do it": (
        sys.executable,
        "-c",
        """if True:
        import pickle, sys
        from groupconv_worker.cpu.compiler_tasks import TaskResult
        while True:
            pickle.load(sys.stdin.buffer)
            pickle.dump(TaskResult(error="no memory"), sys.stdout.buffer)
            sys.stdout.buffer.flush()""",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_compiler_that_is_broken_is_asked_a_few_times_and_no_more(how):
    compiler = Compiler(BROKEN[how])
    asked = []
    for width in range(10, 20):
        improvement = compiler.submit(job(width), now=True)
        assert compiler.wait(60)
        assert improvement is None or improvement.over
        asked.append(improvement is not None)
        assert compiler.submit(job(width), now=True) is None  # it was tried
    assert sum(asked) == (10 if how == "cannot do it" else FAILURES)
    compiler.close()


GATED = """if True:
    import pickle, sys
    from groupconv_worker.cpu.compiler_tasks import TaskResult
    while True:
        pickle.load(sys.stdin.buffer)
        open(sys.argv[1], "w").close()  # the test reads: a job was taken
        open(sys.argv[1]).close()  # the test writes: it is done
        pickle.dump(TaskResult(), sys.stdout.buffer)
        sys.stdout.buffer.flush()
"""


def test_jobs_that_wait_are_bounded_and_the_oldest_may_come_again(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    compiler = Compiler((sys.executable, "-c", GATED, str(gate)))
    first = compiler.submit(job(10), now=True)
    gate.open().close()  # until it is being done
    for width in range(11, 11 + WAITING):
        compiler.submit(job(width), now=True)
    assert first.over
    again = compiler.submit(job(10), now=True)
    assert not again.over
    gate.open("w").close()  # what was dropped is done now, and leaves what was asked for since
    gate.open().close()
    assert not again.over
    for _ in range(WAITING - 1):
        gate.open("w").close()
        gate.open().close()
    gate.open("w").close()
    assert compiler.wait(60)
    assert again.over
    compiler.close()
    assert compiler.submit(job(5000), now=True) is None


def test_an_idle_process_that_has_died_is_replaced():
    compiler, pids = Compiler(BROKEN["cannot do it"]), set()
    for width in range(10, 11 + FAILURES):
        assert compiler.submit(job(width), now=True) is not None
        assert compiler.wait(60)
        pids.add(compiler.pid)
        os.kill(compiler.pid, signal.SIGKILL)
        os.waitid(os.P_PID, compiler.pid, os.WEXITED | os.WNOWAIT)
    assert len(pids) == 1 + FAILURES
    compiler.close()


ONCE_DISTURBED = """if True:
    import pickle, sys
    from groupconv_worker.cpu.compiler_tasks import TaskResult
    undisturbed = False
    while True:
        pickle.load(sys.stdin.buffer)
        pickle.dump(TaskResult(algorithm="direct", undisturbed=undisturbed), sys.stdout.buffer)
        sys.stdout.buffer.flush()
        undisturbed = True
"""
"""Measures beside other work first, and alone the second time."""


def test_what_was_measured_beside_other_work_may_be_asked_for_again():
    compiler, found = Compiler((sys.executable, "-c", ONCE_DISTURBED)), []
    for _ in range(2):
        assert compiler.submit(job(10), found.append, now=True) is not None
        assert compiler.wait(60)
    assert [done.undisturbed for done in found] == [False, True]
    assert compiler.submit(job(10), now=True) is None
    compiler.close()


NEVER_IDLE = """if True:
    import pickle, sys
    from groupconv_worker.cpu.compiler_tasks import TaskResult
    pickle.load(sys.stdin.buffer)
    if sys.argv[2:] == ["idle"]:
        sys.stdin.read()  # until it is killed
    pickle.dump(TaskResult(algorithm="direct"), sys.stdout.buffer)
    sys.stdout.buffer.flush()
    sys.stdin.read()
"""
"""Does nothing while it waits for an idle processor."""


def test_a_process_that_finds_no_idle_processor_is_replaced(monkeypatch):
    monkeypatch.setattr("groupconv_worker.cpu.compiler.IDLE", 0.1)
    monkeypatch.delenv(NICENESS)
    compiler, found = Compiler((sys.executable, "-c", NEVER_IDLE)), []
    compiler.submit(job(10), found.append, now=True)
    assert compiler.wait(60)
    assert [done.algorithm for done in found] == ["direct"]
    compiler.close()


def test_a_process_whose_niceness_was_chosen_does_not_wait_for_an_idle_processor(monkeypatch):
    monkeypatch.setattr("groupconv_worker.cpu.compiler.IDLE", 600)
    monkeypatch.setenv(NICENESS, "7")
    compiler, found = Compiler((sys.executable, "-c", NEVER_IDLE)), []
    compiler.submit(job(10), found.append, now=True)
    assert compiler.wait(60)
    assert [done.algorithm for done in found] == ["direct"]
    compiler.close()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no such policy")
@pytest.mark.parametrize(
    ("idle", "chosen", "policy", "niceness"),
    [(True, None, "SCHED_IDLE", 19), (False, None, "SCHED_OTHER", SHARE), (False, "7", "SCHED_OTHER", 7)],
)
def test_the_process_runs_when_a_processor_is_idle_or_with_its_niceness(idle, chosen, policy, niceness):
    program = f"""if True:
        import os
        from groupconv_worker.cpu.compiler_process import lower_priority
        lower_priority(idle={idle})
        print(os.sched_getscheduler(0), os.nice(0), flush=True)
        os._exit(0)  # on a busy machine the rest would take long"""
    environment = {k: v for k, v in os.environ.items() if k != NICENESS} | ({NICENESS: chosen} if chosen else {})
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found, nice = map(int, printed.split())
    assert found == getattr(os, policy)
    assert nice == min(19, os.nice(0) + niceness)


def test_a_process_whose_parent_has_gone_ends_without_a_word():
    activity = Activity()
    command = [sys.executable, "-m", "groupconv_worker.cpu.compiler_process", str(activity.handle)]
    with subprocess.Popen(
        command, pass_fds=[activity.handle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        process.stdout = None  # `communicate` would read it
        _, said = process.communicate(pickle.dumps(job(12)), timeout=120)
    assert (process.returncode, said) == (0, b"")


ONCE_BUSY = """if True:
    import pickle, sys
    from groupconv_worker.activity import Activity
    from groupconv_worker.cpu.compiler_tasks import TaskResult
    activity, busy = Activity(int(sys.argv[1])), True
    while True:
        job = pickle.load(sys.stdin.buffer)
        error = "a shard runs" if activity.inside and not job.algorithm else ""
        pickle.dump(TaskResult(error=error, busy=busy and not job.algorithm), sys.stdout.buffer)
        sys.stdout.buffer.flush()
        busy = busy and job.algorithm
"""
"""Answers as the process does; the first time that it is to measure, it finds no gap."""


def test_nothing_is_measured_while_a_shard_runs_and_what_found_no_gap_is_tried_again():
    activity, done = Activity(), []
    compiler = Compiler((sys.executable, "-c", ONCE_BUSY), activity)
    measure, compile_ = job(10)._replace(algorithm=None), job(11)
    with activity:
        measured = compiler.submit(measure, lambda found: done.append(("measured", found.error)), now=True)
        compiled = compiler.submit(compile_, lambda found: done.append(("compiled", found.error)), now=True)
        over = threading.Event()
        compiled.then(over.set)
        assert over.wait(60)
        assert not compiler.wait(0.2)  # the other one waits for a gap
        assert not measured.over
    assert compiler.wait(60)
    assert measured.over
    assert done == [("compiled", ""), ("measured", "")]
    compiler.close()


@pytest.mark.slow
def test_a_network_says_how_many_of_its_kernels_are_compiled(tmp_path, monkeypatch):
    """The process tells it while it compiles, in memory that both share."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("LRN", ["a"], ["b"], size=5),
        helper.make_node("MaxPool", ["b"], ["y"], kernel_shape=[3, 3]),
    ]
    data = model(nodes, {"x": (1, 8, 12, 12)}, {"w": np.ones((8, 8, 3, 3), np.float32)})
    compiler, task = Compiler(), NetworkTask("n", data, {"x": (1, 8, 12, 12)})
    improvement = compiler.submit(task, now=True)
    seen = set()

    def over():
        seen.add(compiler.compiled(task))
        return improvement.over

    until(over, 240)
    assert compiler.compiled(task) == (0, 0)  # it is not under way any more
    compiler.close()
    done, kernels = max(seen)
    assert kernels >= 3
    assert 0 < done <= kernels
    assert {of for _, of in seen} == {0, kernels}
