"""Times runs of a kernel as requests use it: on arrays that lie as theirs do, in gaps between a process's shards."""

import math
import resource
import time
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
"""Of the time that candidates took, the part the thread was running below which something else had the processor."""
PREEMPTED = 100
"""Times a second that threads of this process were put aside, above which likewise: helpers are, too, while the thread
looks out for them. Alone on the machine that hardly happens, beside one busy loop hundreds of times."""


class BusyError(Exception):
    """There was no gap between shards."""


class Contention:
    """A context manager around pieces of work of one thread: whether something else had the processor meanwhile."""

    def __init__(self) -> None:
        self._wall = self._running = 0.0
        self._aside = 0

    def __enter__(self) -> Self:
        self._begun = time.perf_counter(), time.thread_time(), _preempted()
        return self

    def __exit__(self, *_: object) -> None:
        wall, running, aside = self._begun
        self._wall += time.perf_counter() - wall
        self._running += time.thread_time() - running
        self._aside += _preempted() - aside

    @property
    def disturbed(self) -> bool:
        """Whether something had."""
        return self._running < DISTURBED * self._wall or self._aside > PREEMPTED * self._wall


class Stopwatch:
    """Times runs on random input, each in a gap between shards. One that a shard came into is made again.

    Attributes:
        wall: seconds of the runs since `begin`.
    """

    def __init__(self, problem: Problem, activity: Activity) -> None:
        self._x, self._out = _arrays(problem)
        self._activity = activity
        self.begin()

    def begin(self) -> None:
        """Forget the runs so far."""
        self.wall = self._running = 0.0
        self._aside = 0

    def seconds(self, kernel: Prepared) -> float:
        """Of one run.

        Raises:
            BusyError: there is no gap that is long enough.
        """
        for _ in range(TRIES):
            entered = gap(self._activity)
            start, running, aside = time.perf_counter(), time.thread_time(), _preempted()
            kernel.run(self._x, self._out)
            took = time.perf_counter() - start
            if self._activity.entered == entered:
                self.wall += took
                self._running += time.thread_time() - running
                self._aside += _preempted() - aside
                return took
        raise BusyError

    @property
    def disturbed(self) -> bool:
        """Whether something else had the processor."""
        return self._running < DISTURBED * self.wall or self._aside > PREEMPTED * self.wall


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
