"""Autotuning: time the candidates of a resident kernel once, keep the fastest, remember it on disk.

A choice is remembered per problem, threads, processor and versions of what computes, this package's code among them, so
a change of it, an upgrade or a move to another machine measures again. Processes that share the file measure one after
another, and take what another has found meanwhile. What was measured while others kept the machine busy is doubted: it
is used, and measured again the next time it is asked for, until a measurement was not disturbed. A process that found
what was known, or has measured four times, measures no more, but leaves the doubt on disk for the next one.
GROUPCONV_TUNE=off takes the first candidate, the heuristic's, instead.
"""

import contextlib
import ctypes
import importlib.metadata
import math
import os
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from cachetools import LRUCache

from groupconv.errors import InvalidArgumentError
from groupconv_worker.activity import Activity
from groupconv_worker.cache_folder import cache_folder
from groupconv_worker.code_version import digest
from groupconv_worker.contract import Prepared, Problem
from groupconv_worker.job import current
from groupconv_worker.tuning.choice_file import CHOICES, ChoiceFile, newest
from groupconv_worker.tuning.stopwatch import Stopwatch
from groupconv_worker.watch import PERIOD

VARIABLE = "GROUPCONV_TUNE"
ON, OFF = ("on", "1", "yes", "true"), ("off", "0", "no", "false")
ROUNDS = 24
"""Turns of each candidate, interleaved."""
TURN = 4
"""Runs in a turn; the first finds the caches, and the helpers, as a pause left them."""
SURE, SLOWER = 3, 1.15
"""After so many turns a candidate is out whose median is so many times the best one's."""
SECONDS = 0.3
"""After this long a problem's tuning ends with the turns it has."""
FAR = 3.0
"""If a problem is too slow for those turns, candidates that take so many times as long as the best one get none."""
DISPLACED = 2**20
"""Doubles written between turns: they take the place of what lies in a core's caches, and helpers fall asleep."""
DOUBT = "?"
"""Behind the name of a candidate whose measurement was disturbed."""
DOUBTS = 3
"""Disturbed measurements after which a process keeps what the next one finds, whatever disturbs it."""


def enabled() -> bool:
    """Whether the environment allows tuning.

    Raises:
        InvalidArgumentError: the variable has another value than on or off.
    """
    text = os.environ.get(VARIABLE, "on")
    if text.lower() in ON:
        return True
    if text.lower() in OFF:
        return False
    raise InvalidArgumentError(VARIABLE, "on or off, or the variable not set", text)


def default_path() -> Path | None:
    """Where choices are remembered: one file in the user's cache directory."""
    return cache_folder("tuning.json")


def versions(machine: str) -> str:
    """What a choice depends on beside its problem: the machine, the engine's code, the libraries that compute."""
    packages = ("numpy", "numba", "onnxruntime")
    of_packages = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    code = digest("*.py", "tuning/*.py", "cpu/**/*.py", "cuda/algorithms/*.py", "cuda/engine.py")
    return ", ".join([machine, f"code {code}", *of_packages])


class Tuner:
    """Chooses among prepared candidates by measurement.

    Args:
        threads: the budget that the candidates run in.
        path: the file of choices; None remembers for the life of the tuner only.
        machine: what is measured: choices of another machine in the same file are not used.
        activity: of the process whose shards must not run meanwhile; by default nothing else runs.
    """

    def __init__(
        self, threads: int, path: Path | None = None, machine: str = "", activity: Activity | None = None
    ) -> None:
        self.threads, self.path, self.version = threads, path, versions(machine)
        self._file = ChoiceFile(path, self.version)
        self._lock, self._activity = threading.Lock(), activity or Activity()
        self._choices = self._file.read()
        self._disturbed = LRUCache[str, int](CHOICES)  # measurements in a row

    def choose(self, problem: Problem, candidates: Mapping[str, Callable[[], Prepared]]) -> Prepared:
        """The fastest candidate, prepared: from memory if it was measured before, else measured now.

        Args:
            problem: what they compute.
            candidates: name -> prepare; the first is taken where there is no other.

        Raises:
            BusyError: shards ran all the time; nothing was measured.
        """
        key = self._key(problem)
        known, sure = self.known(problem)
        if sure and known is not None and known in candidates:
            return candidates[known]()
        if len(candidates) == 1:
            return next(iter(candidates.values()))()
        with _one_at_a_time(self._lock), self._file.alone():  # two tunings at once would time each other
            choice = self._file.read().get(key)
            if choice is not None and choice != self._choices.get(key) and choice.rstrip(DOUBT) in candidates:
                self._choices = newest(self._choices | {key: choice})  # another process has measured meanwhile
                return candidates[choice.rstrip(DOUBT)]()
            name, best, disturbed = self._measure(problem, candidates)
            self._file.add(key, self._note(key, name, sure=not disturbed))
            return_freed_memory()
        return best

    def known(self, problem: Problem) -> tuple[str | None, bool]:
        """The name of the fastest candidate, if a process has measured it, and whether to measure no more."""
        key = self._key(problem)
        name = self._choices.get(key)
        if name is None:
            return None, False
        return name.rstrip(DOUBT), not name.endswith(DOUBT) or self._disturbed.get(key, 0) > DOUBTS

    def learn(self, problem: Problem, name: str | None, *, sure: bool) -> None:
        """Another process has measured: this candidate was the fastest, or None of them; and whether that is sure."""
        if name is not None:
            with self._lock:
                self._note(self._key(problem), name, sure=sure)

    def _note(self, key: str, name: str, *, sure: bool) -> str:
        """Take a choice. Returns it as it is written."""
        before = self._choices.get(key, "").rstrip(DOUBT)
        choice = name if sure else name + DOUBT
        self._choices = newest(self._choices | {key: choice})
        self._disturbed[key] = 0 if sure else DOUBTS + 1 if before == name else self._disturbed.get(key, 0) + 1
        return choice

    def _key(self, problem: Problem) -> str:
        g = problem.geometry.with_batch(1)
        dtypes = " ".join(map(str, problem.types))
        activation = g.activation.kind if g.activation else ""
        shape = (g.in_channels, g.out_channels, g.groups, g.input, g.kernel, g.output, g.stride, g.padding, g.dilation)
        flags = (g.padding_mode, activation, g.transposed, g.exact)
        return f"{self.threads} threads; {dtypes}; {shape}; {flags}"

    def _measure(
        self, problem: Problem, candidates: Mapping[str, Callable[[], Prepared]]
    ) -> tuple[str, Prepared, bool]:
        """Time the candidates as requests use them: in turns of a few runs, after a pause that others filled.

        Timed back to back, what goes through the interpreter, or needs its helpers awake, looks better than it is.

        Returns:
            The fastest one's name, it, and whether something else had the processor meanwhile.
        """
        prepared = {name: prepare() for name, prepare in candidates.items()}
        watch = Stopwatch(problem, self._activity)
        for kernel in prepared.values():
            watch.seconds(kernel)  # memory is touched before anything counts
        once = {name: watch.seconds(kernel) for name, kernel in prepared.items()}
        limit = min(once.values()) * FAR if sum(once.values()) * TURN * SURE > SECONDS else math.inf
        times: dict[str, list[float]] = {name: [] for name in once if once[name] <= limit}
        others = np.zeros(DISPLACED)
        watch.begin()
        for turn in range(1, ROUNDS + 1):
            for name, seconds in times.items():
                others += 1.0
                seconds += [watch.seconds(prepared[name]) for _ in range(TURN)]
            medians = {name: statistics.median(seconds) for name, seconds in times.items()}
            if turn >= SURE:
                limit = min(medians.values()) * SLOWER
                times = {name: seconds for name, seconds in times.items() if medians[name] <= limit}
            if len(times) == 1 or watch.wall > SECONDS:
                break
        best = min(times, key=lambda name: medians[name])
        return best, prepared[best], watch.disturbed


def return_freed_memory() -> None:
    """Give the system back what malloc keeps free, where it can: candidates that were not chosen leave megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def _one_at_a_time(lock: threading.Lock) -> Iterator[None]:
    """With the lock; who waits for it looks at its job."""
    while not lock.acquire(timeout=PERIOD):
        current().check()
    try:
        yield
    finally:
        lock.release()
