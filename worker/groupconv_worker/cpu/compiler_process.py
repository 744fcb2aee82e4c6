"""The process that compiles and tunes for others (cpu/compiler.py): tasks come by stdin, results go to stdout.

Its arguments are the descriptor of the parent's activity (activity.py), and `idle` if it is to run only when a
processor has nothing else to do. It ends when the pipe is closed, so never later than one task after its parent.
Processes that share a cache folder take turns, so that each finds what the others have compiled.
"""

import contextlib
import fcntl
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from groupconv_worker.activity import Activity
from groupconv_worker.cpu.compiler import NICENESS, NICEST, SHARE
from groupconv_worker.cpu.compiler_tasks import KernelTask, NetworkTask, Task, TaskResult, say_compiled
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.cpu.kernels.cache import folders
from groupconv_worker.cpu.kernels.forms import FORMS, Form, NotCompiledError, deferred
from groupconv_worker.cpu.variables import integer_variable
from groupconv_worker.tuning.stopwatch import BusyError


def main(tasks: BinaryIO, answers: BinaryIO, activity: Activity) -> None:
    """Do tasks until the pipe is closed. Candidates are measured while the parent runs no shards."""
    FORMS.limit = sys.maxsize  # the process ends before they are many
    engines: dict[int, CpuEngine] = {}
    while True:
        try:
            task: Task = pickle.load(tasks)  # noqa: S301 - of our own parent
        except EOFError:
            return
        if isinstance(task, NetworkTask):
            pickle.dump(run_network_task(task, activity), answers, pickle.HIGHEST_PROTOCOL)
        else:
            if task.threads not in engines:
                engines[task.threads] = CpuEngine(threads=task.threads, activity=activity)
            pickle.dump(run_task(engines[task.threads], task), answers)
        answers.flush()


def run_task(engine: CpuEngine, task: KernelTask) -> TaskResult:
    """Compile an algorithm's forms, or measure all candidates."""
    try:
        with _alone():
            shape, dtype = task.problem.geometry.weight_shape, task.problem.types.weight
            if task.algorithm is None:
                weight = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype)
                fastest = engine.prepare(task.problem, weight, resident=True)
                name, undisturbed = engine.tuner.known(task.problem)
                return TaskResult(tuple(FORMS.made), name or fastest.algorithm, undisturbed=undisturbed or name is None)
            weight = np.ones(shape, dtype)  # of rank 1: a separable kernel takes no others
            engine.named(task.problem, task.algorithm).prepare(task.problem, weight, None, resident=task.resident)
            return TaskResult(tuple(FORMS.made))
    except BusyError:
        return TaskResult(tuple(FORMS.made), busy=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, the kernel is computed without
        return TaskResult(tuple(FORMS.made), error=f"{type(error).__name__}: {error}")


def run_network_task(task: NetworkTask, activity: Activity) -> TaskResult:
    """Bind a network's graph, and compile the kernels of its program if it is one for threads."""
    from groupconv_worker.cpu.network.fragments import compiled_network
    from groupconv_worker.cpu.network.kernels.clock import stamp
    from groupconv_worker.cpu.network.sharded import cut_network
    from groupconv_worker.cpu.threads import Team
    from groupconv_worker.graph.graph import UnsupportedNodeError
    from groupconv_worker.graph.importing import Optimized
    from groupconv_worker.graph.model import read_model
    from groupconv_worker.graph.translation import UnboundGraphError

    try:
        graph = Optimized(read_model(task.data)).canonical(task.shapes)
        if not task.compiled:
            return TaskResult(tuple(FORMS.made), graph=graph)
        team = Team(1)
        try:
            with _alone():
                for choice in task.cuts:
                    with contextlib.suppress(UnsupportedNodeError, ValueError):  # others may do
                        cut_network(graph, choice, [team] * task.workers)
                if not task.cuts:
                    with _counted(lambda: compiled_network(graph, team), activity):
                        compiled_network(graph, team)
                stamp()  # for runs that take the time of each node
        finally:
            team.close()
    except (UnsupportedNodeError, UnboundGraphError) as error:
        return TaskResult(tuple(FORMS.made), reason=str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the network stays with the runtime
        return TaskResult(tuple(FORMS.made), error=f"{type(error).__name__}: {error}")
    return TaskResult(tuple(FORMS.made), graph=graph)


@contextlib.contextmanager
def _counted(make: Callable[[], object], activity: Activity) -> Iterator[None]:
    """Tell the parent how many kernels are missing for `make`, and meanwhile how many of these have come."""
    from groupconv_worker.cpu.network.network import KernelsMissingError

    try:
        with deferred():
            make()
        missing: set[Form] = set()
    except (KernelsMissingError, NotCompiledError) as error:
        missing = set(error.forms) if isinstance(error, KernelsMissingError) else set()
    total = len(missing)
    say_compiled(activity, 0, total)

    def on_made(form: Form) -> None:
        missing.discard(form)
        say_compiled(activity, total - len(missing), total)

    before, FORMS.on_made = FORMS.on_made, on_made
    try:
        yield
    finally:
        FORMS.on_made = before


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of the cache folder: one process at a time compiles into it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock = stack.enter_context((folders()[0] / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def lower_priority(*, idle: bool) -> None:
    """Run only when a processor is idle, where the system has such a policy, or else with less of it than requests.

    A niceness of 19 alone lets Linux finish a slice of some milliseconds before a request's thread that wakes, and a
    processor that runs this process counts as busy. There is no way back from the policy without privileges.
    """
    os.nice(integer_variable(NICENESS, NICEST if idle else SHARE, NICEST))
    if idle and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    lower_priority(idle=sys.argv[2:] == ["idle"])
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not an answer
    try:
        main(sys.stdin.buffer, pipe, Activity(int(sys.argv[1])))
    except BrokenPipeError:  # the parent has gone: what is left of the answer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())
