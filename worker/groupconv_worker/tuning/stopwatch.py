"""Times runs of a kernel as requests use it: on arrays that lie as theirs do, in gaps between a process's shards."""

import math
import os
import resource
import time
from pathlib import Path
from typing import Self

import numpy as np

from groupconv.convolution.dtypes import is_float
from groupconv_worker.activity import Activity
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.pieces import blocks

TRIES = 20
"""Runs in a row that a shard came into, after which there is no gap for one."""
LOOK = 0.001
"""Seconds between two looks whether a shard runs."""
PATIENCE = 1.0
"""Seconds to wait for a gap."""
LINE = 64
"""Bytes of a cache line."""
DISTURBED = 0.95
"""A measurement is disturbed if its thread ran for a smaller share of the time: something else had the processor."""
PREEMPTED = 100
"""Times a second that threads of this process were put aside, above which likewise: helpers are, too, while the thread
looks out for them. Alone on the machine that hardly happens, beside one busy loop hundreds of times."""
OTHERS, TICKS = 0.1, 0.03
"""Of the time of all processors, what other processes may use, beside so many seconds: Linux counts whole ticks. A
program on a processor of its own puts nobody aside, but takes caches, memory and clock."""
STAT = Path("/proc/stat")
BUSY = (1, 2, 3, 6, 7, 8)
"""Words of its first line, in ticks: user, nice, system, both interrupts, stolen."""


class BusyError(Exception):
    """There was no gap between shards."""


class Contention:
    """A context manager around pieces of work of one thread: whether something else had the processor meanwhile.

    Attributes:
        wall: seconds that the pieces took.
    """

    def __init__(self) -> None:
        self.wall = self._running = 0.0
        self._aside = 0

    def __enter__(self) -> Self:
        self._begun = time.perf_counter(), time.thread_time(), _preempted()
        return self

    def __exit__(self, *_: object) -> None:
        wall, running, aside = self._begun
        self.wall += time.perf_counter() - wall
        self._running += time.thread_time() - running
        self._aside += _preempted() - aside

    def add(self, other: "Contention") -> None:
        """Count the pieces of another one, too."""
        self.wall += other.wall
        self._running += other._running  # noqa: SLF001 - of this class
        self._aside += other._aside  # noqa: SLF001

    @property
    def disturbed(self) -> bool:
        """Whether something had."""
        return self._running < DISTURBED * self.wall or self._aside > PREEMPTED * self.wall


class Stopwatch:
    """Times runs on random input, each in a gap between shards. One that a shard came into is made again."""

    def __init__(self, problem: Problem, activity: Activity) -> None:
        self._x, self._out = _arrays(problem)
        self._activity = activity
        self.begin()

    def begin(self) -> None:
        """Forget the runs so far."""
        self._runs = Contention()
        self._begun = time.perf_counter(), _used_by_others()

    def seconds(self, kernel: Prepared) -> float:
        """Of one run.

        Raises:
            BusyError: there is no gap that is long enough.
        """
        for _ in range(TRIES):
            entered = gap(self._activity)
            with Contention() as run:
                kernel.run(self._x, self._out)
            if self._activity.entered == entered:
                self._runs.add(run)
                return run.wall
        raise BusyError

    @property
    def wall(self) -> float:
        """Seconds of the runs since `begin`."""
        return self._runs.wall

    @property
    def disturbed(self) -> bool:
        """Whether something else had the processor, or other processes kept the machine busy since `begin`."""
        begun, used = self._begun
        allowed = OTHERS * (os.cpu_count() or 1) * (time.perf_counter() - begun) + TICKS
        return self._runs.disturbed or _used_by_others() - used > allowed


def gap(activity: Activity) -> int:
    """Wait until no shard runs or waits. Returns how many have come: if that has changed, the gap is over.

    Raises:
        BusyError: shards ran all the time.
    """
    limit = time.monotonic() + PATIENCE
    while activity.inside:
        if time.monotonic() > limit:
            raise BusyError
        time.sleep(LOOK)
    return activity.entered


def _preempted() -> int:
    """How often threads of this process had to give way to others so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _used_by_others() -> float:
    """Seconds of all processors that other processes have used so far, plus a constant; 0 where Linux does not say."""
    try:
        words = STAT.read_text().split(maxsplit=max(BUSY) + 1)
        return sum(int(words[at]) for at in BUSY) / os.sysconf("SC_CLK_TCK") - time.process_time()
    except (OSError, ValueError, IndexError):
        return 0.0


def _arrays(problem: Problem) -> tuple[Array, Array]:
    """One sample of the problem's shape, random, and room for its answer."""
    g, types = problem.geometry.with_batch(1), problem.types
    rng, x = np.random.default_rng(0), _array(g.input_shape, types.input, 16)
    for at in blocks(x.shape):
        shape = x[at].shape
        x[at] = rng.standard_normal(shape, np.float32) if is_float(x.dtype) else rng.integers(0, 100, shape)
    return x, _array(g.output_shape, types.output, 0)


def _array(shape: tuple[int, ...], dtype: np.dtype, behind: int) -> Array:
    """An array that begins so many bytes behind the start of a cache line.

    Input comes as NumPy has it, 16 bytes behind one, where vectors lie on two lines: a kernel that loads them is slower
    than one that broadcasts. Output begins with a line, as in shared memory: a kernel that writes whole lines shows it.
    """
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + LINE, np.uint8)
    start = (behind - room.ctypes.data) % LINE
    return room[start : start + size].view(dtype).reshape(shape)
