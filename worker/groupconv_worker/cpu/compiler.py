"""Compiling and tuning beside the requests: in another process, one thing at a time, when a processor is idle.

A request computes with what is there. What would have been better for it is a `Job` here: a thread gives it to the
process of `compiler_process.py`, which compiles the forms that it needs, or measures its candidates, and leaves both on
disk. The next request finds them there. A process that dies takes one job with it, and the next job gets a new one.
"""

import atexit
import contextlib
import logging
import os
import pickle
import select
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from cachetools import LRUCache

from groupconv_worker.activity import ACTIVITY, Activity
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.kernels import cache
from groupconv_worker.cpu.kernels.forms import FORMS, Form
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.improvement import Improvement

log = logging.getLogger(__name__)

NICENESS = "GROUPCONV_COMPILER_NICE"
"""Variable with the niceness of the process, 0 to 19. By default the process runs when a processor is idle."""
IDLE = 20.0
"""Seconds of a job after which a process that waits for an idle processor is replaced by one that does not: a machine
that is never idle would never compile anything. What was compiled before is on disk."""
SHARE = 5
"""Niceness of that one. Beside two threads that never rest, 19 compiled nothing in a minute, and 5 took 30 s for a
U-Net, whose calls took 1.4 times as long meanwhile."""
WAITING = 256
"""Jobs that wait, at most; beyond them the oldest is dropped, and comes again when it is asked for again."""
SEEN = 4096
"""Forms and jobs of which it is remembered that they were asked for."""
PATIENCE = 10.0
"""Seconds without a job after which the process ends."""
PAUSE = 0.05
"""Seconds between two looks whether there is a gap between shards to tune in."""
JOBS = 64
"""Jobs after which a process is replaced: what it has compiled stays in its memory."""
FAILURES = 3
"""Processes in a row that died at a job, after which none is started any more."""


class Job(NamedTuple):
    """What another process does.

    Attributes:
        problem: of one sample.
        threads: of the engine.
        algorithm: whose forms are compiled for it; None measures the candidates of a resident kernel.
        resident: whether the kernel stays.
    """

    problem: Problem
    threads: int
    algorithm: str | None
    resident: bool = False


@dataclass(eq=False, slots=True)
class NetworkJob:
    """A network of which another process binds the graph and compiles the kernels.

    Attributes:
        name: for people.
        data: the ONNX model; emptied once it is done.
        shapes: of the inputs.
        workers: over which the network is cut.
        cuts: ways to cut it, of which the kernels are compiled; none compiles those of the whole network.
        compiled: whether kernels are to be compiled; else the graph is bound alone.
    """

    name: str
    data: bytes = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]]
    workers: int = 1
    cuts: tuple[CutChoice, ...] = ()
    compiled: bool = True


class Done(NamedTuple):
    """What came of a job.

    Attributes:
        forms: that are on disk now.
        algorithm: that was the fastest; None if nothing was measured.
        sure: whether nothing else had the processor meanwhile. Else the job may be asked for again.
        error: why it could not be done; empty if it was.
        busy: whether it is to be tried again, as shards ran all the time.
        graph: of a network.
        reason: why a network has no graph, or no kernels for it.
    """

    forms: tuple[Form, ...] = ()
    algorithm: str | None = None
    sure: bool = True
    error: str = ""
    busy: bool = False
    graph: Graph | None = None
    reason: str = ""


class Compiler:
    """The jobs of this process, and the process that does them.

    Args:
        command: starts that process, with the arguments of compiler_process.py behind it.
        activity: the shards of this process. While any runs, nothing is tuned.
    """

    def __init__(self, command: tuple[str, ...] = (), activity: Activity = ACTIVITY) -> None:
        self._activity = activity
        self._command = command or (sys.executable, "-P", "-m", "groupconv_worker.cpu.compiler_process")
        self._waiting = OrderedDict[Hashable, tuple[Job | NetworkJob, Improvement, Callable[[Done], None]]]()
        self._known: LRUCache[Hashable, Improvement | None] = LRUCache(SEEN)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._idle = False
        self._jobs = 0
        self._failures = 0
        self._closed = False

    def ask(
        self,
        job: Job | NetworkJob,
        done: Callable[[Done], None] = lambda _: None,
        *,
        form: Form | None = None,
        now: bool = False,
    ) -> Improvement | None:
        """Have a job done, once; again only if it was a measurement that something disturbed.

        Args:
            job: what to do.
            done: called with what came of it, in another thread.
            form: that was missing. Other problems that miss it wait for the same job.
            now: whether to begin at once; else nothing is done for what is asked for the first time.

        Returns:
            What to wait for; None if nothing is being prepared.
        """
        key: Hashable = form or job
        with self._changed:
            if self._closed or self._failures >= FAILURES:
                return None
            if key not in self._known and not now:
                self._known[key] = None
                return None
            known = self._known.get(key)
            if known is not None:
                return None if known.over else known
            improvement = self._known[key] = Improvement()
            self._waiting[key] = job, improvement, done
            while len(self._waiting) > WAITING:
                dropped, (_, lost, _) = self._waiting.popitem(last=False)
                self._known.pop(dropped, None)
                lost.end()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="compiler", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return improvement

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing waits and nothing is done; False if that takes longer (for tests and commands)."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def close(self) -> None:
        """End the process; nothing more is prepared."""
        with self._changed:
            self._closed = True
            self._drop()
            process = self._process
            self._changed.notify_all()
        if process is not None:
            process.kill()

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        process = self._process
        return None if process is None else process.pid

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._closed or self._waiting, PATIENCE):
                    self._end()
                    self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    self._end()
                    return
                key = self._next()
                if key is None:
                    self._changed.wait(PAUSE)
                    continue
                taken = job, improvement, done = self._waiting[key]
            found = self._send(job)
            if found.error:
                log.warning("%s cannot be prepared ahead: %s", job, found.error)
            if isinstance(job, NetworkJob):
                job.data = b""  # the job is remembered
            FORMS.appeared(found.forms)
            if found.busy:
                continue
            done(found)
            with self._changed:
                if self._waiting.get(key) is taken:  # else it was dropped, and perhaps asked for since
                    del self._waiting[key]
                    if not found.sure:
                        self._known.pop(key, None)
                if self._jobs >= JOBS:
                    self._end()
                if self._failures >= FAILURES:
                    log.error("%d compiling processes in a row died; kernels are not compiled any more", FAILURES)
                    self._drop()
                improvement.end()
                self._changed.notify_all()

    def _next(self) -> Hashable | None:
        """The job that was asked for last, as it is most likely to come again; None if it has to wait for a gap."""
        busy = self._activity.inside > 0
        return next((key for key, (job, *_) in reversed(self._waiting.items()) if not (busy and _measures(job))), None)

    def _send(self, job: Job | NetworkJob) -> Done:
        """Have the process do a job; it is started if there is none."""
        try:
            pipe = self._give(job, idle=NICENESS not in os.environ)
            answered = select.poll()  # unlike select.select it takes descriptors beyond 1023
            answered.register(pipe, select.POLLIN)
            if self._idle and not answered.poll(1000 * IDLE):
                self._end()
                pipe = self._give(job, idle=False)
            found: Done = pickle.load(pipe)  # noqa: S301 - of our own process
        except Exception as error:  # noqa: BLE001 - what a broken process writes may fail in any way
            self._failures += 1
            self._end()
            return Done(error=f"the compiling process ended ({error or type(error).__name__})")
        self._failures = 0
        return found

    def _give(self, job: Job | NetworkJob, *, idle: bool) -> IO[bytes]:
        """Send a job to the process, which is started if there is none, `idle` or not. Returns what it answers by."""
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it died while it had nothing to do
        if self._process is None:
            self._idle, self._jobs = idle, 0
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [*self._command, str(self._activity.handle), *(["idle"] if idle else [])],
                pass_fds=[self._activity.handle],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | cache.spare_folder(),
                process_group=0,  # an interrupt at the terminal is for the server, which then ends it
            )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018 - for mypy
        self._jobs += 1
        pickle.dump(job, self._process.stdin)
        self._process.stdin.flush()
        return self._process.stdout

    def _drop(self) -> None:
        for _, improvement, _ in self._waiting.values():
            improvement.end()
        self._waiting.clear()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.kill()
        process.wait()


def _measures(job: Job | NetworkJob) -> bool:
    """Whether a job takes times, which other work would spoil."""
    return isinstance(job, Job) and job.algorithm is None


COMPILER = Compiler()
"""Of this process."""
atexit.register(COMPILER.close)
