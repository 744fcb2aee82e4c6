"""The process that compiles and tunes for others (cpu/compiler.py): jobs come by stdin, what came of them by stdout.

Its arguments are the descriptor of the parent's activity (activity.py), and `idle` if it is to run only when a
processor has nothing else to do. It ends when the pipe is closed, so never later than one job after its parent.
Processes that share a cache folder take turns, so that each finds what the others have compiled.
"""

import contextlib
import fcntl
import os
import pickle
import sys
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from groupconv_worker.activity import Activity
from groupconv_worker.cpu.compiler import NICENESS, SHARE, Done, Job, NetworkJob
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.cpu.kernels.cache import folders
from groupconv_worker.cpu.kernels.forms import FORMS
from groupconv_worker.stopwatch import BusyError


def main(jobs: BinaryIO, answers: BinaryIO, activity: Activity) -> None:
    """Do the jobs that come, until no more do. Candidates are measured while the parent runs no shards."""
    FORMS.limit = sys.maxsize  # the process ends before they are many
    engines: dict[int, CpuEngine] = {}
    while True:
        try:
            job: Job | NetworkJob = pickle.load(jobs)  # noqa: S301 - of our own parent
        except EOFError:
            return
        if isinstance(job, NetworkJob):
            pickle.dump(perform_network(job), answers, pickle.HIGHEST_PROTOCOL)
        else:
            if job.threads not in engines:
                engines[job.threads] = CpuEngine(threads=job.threads, activity=activity)
            pickle.dump(perform(engines[job.threads], job), answers)
        answers.flush()


def perform(engine: CpuEngine, job: Job) -> Done:
    """Do one job."""
    try:
        with _alone():
            shape, dtype = job.problem.geometry.weight_shape, job.problem.types.weight
            if job.algorithm is None:
                weight = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype)
                fastest = engine.prepare(job.problem, weight, resident=True)
                name, sure = engine.tuner.known(job.problem)
                return Done(tuple(FORMS.made), name or fastest.algorithm, sure=sure or name is None)
            weight = np.ones(shape, dtype)  # of rank 1: a separable kernel takes no others
            engine.named(job.problem, job.algorithm).prepare(job.problem, weight, None, resident=job.resident)
            return Done(tuple(FORMS.made))
    except BusyError:
        return Done(tuple(FORMS.made), busy=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, the kernel is computed without
        return Done(tuple(FORMS.made), error=f"{type(error).__name__}: {error}")


def perform_network(job: NetworkJob) -> Done:
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
        graph = Optimized(read_model(job.data)).canonical(job.shapes)
        if not job.compiled:
            return Done(tuple(FORMS.made), graph=graph)
        team = Team(1)
        try:
            with _alone():
                for choice in job.cuts:
                    with contextlib.suppress(UnsupportedNodeError, ValueError):  # others may do
                        cut_network(graph, choice, [team] * job.workers)
                if not job.cuts:
                    compiled_network(graph, team)
                stamp()  # for runs that take the time of each node
        finally:
            team.close()
    except (UnsupportedNodeError, UnboundGraphError) as error:
        return Done(tuple(FORMS.made), reason=str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the network stays with the runtime
        return Done(tuple(FORMS.made), error=f"{type(error).__name__}: {error}")
    return Done(tuple(FORMS.made), graph=graph)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """While no other process does so with the same folder."""
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
    os.nice(int(os.environ.get(NICENESS, "19" if idle else SHARE)))
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
