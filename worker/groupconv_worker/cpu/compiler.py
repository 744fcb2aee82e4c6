"""Compiling and tuning beside the requests: in another process, one task at a time, when a processor is idle.

A request never waits for a compiler: it computes with the kernels that are compiled. Where others would be faster, it
submits a `KernelTask`. A thread sends the task to the process of `compiler_process.py`, which compiles the kernels'
forms, or measures the candidates, and writes both to disk for the next request. A process that dies loses one task; the
next task gets a new process.
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
from collections.abc import Callable, Hashable
from typing import IO

from cachetools import LRUCache

from groupconv_worker.activity import ACTIVITY, Activity
from groupconv_worker.cpu.compiler_tasks import KernelTask, NetworkTask, Task, TaskResult, compiled, say_compiled
from groupconv_worker.cpu.kernels import cache
from groupconv_worker.cpu.kernels.forms import FORMS, Form
from groupconv_worker.cpu.variables import integer_variable
from groupconv_worker.improvement import Improvement

log = logging.getLogger(__name__)

NICENESS = "GROUPCONV_COMPILER_NICE"
"""Variable with the niceness of the process, 0 to 19. By default the process runs when a processor is idle."""
NICEST = 19
"""The largest niceness."""
IDLE = 20.0
"""Seconds of a task after which a process that waits for an idle processor is replaced by one that does not: a machine
that is never idle would never compile anything. What was compiled before is on disk."""
SHARE = 5
"""Niceness of that one. Beside two threads that never rest, 19 compiled nothing in a minute, and 5 took 30 s for a
U-Net, whose calls took 1.4 times as long meanwhile."""
WAITING = 256
"""Tasks that wait, at most; beyond them the oldest is dropped, and may be submitted again."""
SEEN = 4096
"""Forms and tasks that are remembered as submitted."""
PATIENCE = 10.0
"""Seconds without a task after which the process ends."""
PAUSE = 0.05
"""Seconds between two looks whether there is a gap between shards to tune in."""
TASKS = 64
"""Tasks after which a process is replaced: what it has compiled stays in its memory."""
FAILURES = 3
"""Processes in a row that died at a task, after which none is started any more."""


class Compiler:
    """The queue of tasks, and the other process that does them. Safe to use from several threads.

    Args:
        command: starts that process, with the arguments of compiler_process.py behind it.
        activity: the shards of this process. While any runs, nothing is tuned.
    """

    def __init__(self, command: tuple[str, ...] = (), activity: Activity = ACTIVITY) -> None:
        integer_variable(NICENESS, SHARE, NICEST)  # a wrong one is told at the start, not by a process that fails later
        self._activity = activity
        self._command = command or (sys.executable, "-P", "-m", "groupconv_worker.cpu.compiler_process")
        self._waiting = OrderedDict[Hashable, tuple[Task, Improvement, Callable[[TaskResult], None]]]()
        self._known: LRUCache[Hashable, Improvement | None] = LRUCache(SEEN)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._current: Task | None = None
        self._idle = False
        self._tasks = 0
        self._failures = 0
        self._closed = False

    def submit(
        self,
        task: Task,
        done: Callable[[TaskResult], None] = lambda _: None,
        *,
        form: Form | None = None,
        now: bool = False,
    ) -> Improvement | None:
        """Have a task done, unless it was done before. A measurement that was disturbed may be done again.

        Args:
            task: what to do.
            done: called with the result, in another thread.
            form: the missing form that the task compiles. Tasks for the same form are one.
            now: False does nothing the first time: a convolution that is requested once is not worth compiling for.

        Returns:
            Ends when the task has; None if the task is not waiting, because it was done, refused, or is new.
        """
        key: Hashable = form or task
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
            self._waiting[key] = task, improvement, done
            while len(self._waiting) > WAITING:
                dropped, (_, lost, _) = self._waiting.popitem(last=False)
                self._known.pop(dropped, None)
                lost.end()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="compiler", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return improvement

    def compiled(self, task: Task) -> tuple[int, int]:
        """How many kernels of a task are compiled, and of how many; both are 0 while that is not known."""
        return compiled(self._activity) if task is self._current else (0, 0)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until all tasks are done; False after `timeout` seconds (for tests and commands)."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def close(self) -> None:
        """End the process, and refuse tasks from now on."""
        with self._changed:
            self._closed = True
            self._drop()
            process = self._process
            self._changed.notify_all()
        if process is not None:
            process.kill()

    @property
    def pid(self) -> int | None:
        """The id of the other process; None if there is none."""
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
                taken = task, improvement, done = self._waiting[key]
            say_compiled(self._activity, 0, 0)
            self._current = task
            result = self._send(task)
            self._current = None
            if result.error:
                log.warning("%s cannot be prepared ahead: %s", task, result.error)
            if isinstance(task, NetworkTask):
                task.data = b""  # the task is remembered
            FORMS.appeared(result.forms)
            if result.busy:
                continue
            _tell(done, task, result)
            with self._changed:
                if self._waiting.get(key) is taken:  # else it was dropped, and perhaps submitted anew
                    del self._waiting[key]
                    if not result.undisturbed:
                        self._known.pop(key, None)
                if self._tasks >= TASKS:
                    self._end()
                if self._failures >= FAILURES:
                    log.error("%d compiling processes in a row died; kernels are not compiled any more", FAILURES)
                    self._drop()
                improvement.end()
                self._changed.notify_all()

    def _next(self) -> Hashable | None:
        """The key of the latest task, which is likeliest to be needed again; None while none may run beside shards."""
        busy = self._activity.inside > 0
        latest_first = reversed(self._waiting.items())
        return next((key for key, (task, *_) in latest_first if not (busy and _measures(task))), None)

    def _send(self, task: Task) -> TaskResult:
        """Have the process do a task, and wait for the result."""
        try:
            pipe = self._give(task, idle=NICENESS not in os.environ)
            answered = select.poll()  # unlike select.select it takes descriptors beyond 1023
            answered.register(pipe, select.POLLIN)
            if self._idle and not answered.poll(1000 * IDLE):
                self._end()
                pipe = self._give(task, idle=False)
            result: TaskResult = pickle.load(pipe)  # noqa: S301 - of our own process
        except Exception as error:  # noqa: BLE001 - what a broken process writes may fail in any way
            self._failures += 1
            self._end()
            return TaskResult(error=f"the compiling process ended ({error or type(error).__name__})")
        self._failures = 0
        return result

    def _give(self, task: Task, *, idle: bool) -> IO[bytes]:
        """Send a task to the process, and return the pipe of its results. Starts the process if there is none.

        Args:
            task: to send.
            idle: whether a process that is started runs only while a processor is idle.
        """
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it died while it had nothing to do
        if self._process is None:
            self._idle, self._tasks = idle, 0
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [*self._command, str(self._activity.handle), *(["idle"] if idle else [])],
                pass_fds=[self._activity.handle],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | cache.spare_folder(),
                process_group=0,  # an interrupt at the terminal is for the server, which then ends it
            )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018 - for mypy
        self._tasks += 1
        pickle.dump(task, self._process.stdin)
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


def _measures(task: Task) -> bool:
    """Whether a task measures times, which shards beside it would spoil."""
    return isinstance(task, KernelTask) and task.algorithm is None


def _tell(done: Callable[[TaskResult], None], task: Task, result: TaskResult) -> None:
    """Call the function of a task. If it fails, the compiler's thread goes on to the next task."""
    try:
        done(result)
    except Exception:
        log.exception("%s was done in vain", task)


COMPILER = Compiler()
"""The compiler of this process."""
atexit.register(COMPILER.close)
