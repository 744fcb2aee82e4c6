"""Two bare threads: what is the most that two workers of one thread could give, without coordinator and executor.

The second thread has its work announced, and tells that it is done, by a word of memory that the other one looks out
for in compiled code. It sleeps when nothing came for a moment, so as not to take a core from what is measured in turn.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numba import njit, types

from groupconv_worker.cpu.kernels.atomic import exchange, store
from groupconv_worker.cpu.kernels.futex import wake
from groupconv_worker.cpu.kernels.program import LINE, await_word
from groupconv_worker.cpu.threads import LOOKOUT

Work = Callable[[], object]


class TwoThreads:
    """The caller's thread and another one.

    Example:
        >>> done = []
        >>> with TwoThreads() as threads:
        ...     threads.run(lambda: done.append(1), lambda: done.append(2))
        >>> sorted(done)
        [1, 2]
    """

    def __init__(self) -> None:
        self._work: Work | None = None
        self._words = np.zeros(3 * LINE, np.int64)
        self._address = self._words.ctypes.data
        self._begin, self._done = 0, 2 * LINE  # on lines of their own
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._work = None
        self._tell(self._begin)
        self._thread.join()

    def run(self, here: Work, there: Work) -> None:
        """Do both at once; return when both are done."""
        self._work = there
        self._tell(self._begin)
        here()
        self._await(self._done)

    def _loop(self) -> None:
        while True:
            self._await(self._begin)
            if self._work is None:
                return
            self._work()
            self._tell(self._done)

    def _tell(self, word: int) -> None:
        _tell(self._address + 8 * word)

    def _await(self, word: int) -> None:
        await_word(self._address + 8 * word, LOOKOUT)
        self._words[word] = 0


@njit(types.void(types.int64), nogil=True)
def _tell(address):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - compiled
    """Set a word to 1, and wake who sleeps at it."""
    if not exchange(address, 0, 1):
        store(address, 1)
        wake(address)


def machine(rounds: int) -> dict[str, float]:
    """How much more two threads do than one in the same time, computing in their caches and copying in memory."""
    x, small = np.ones((8, 32, 112, 112), np.float32), np.ones((2, 100_000), np.float32)
    y, results = np.empty_like(x), np.empty_like(small)
    works: dict[str, Callable[[int], object]] = {
        "computing": lambda i: [np.sin(small[i], out=results[i]) for _ in range(20)],
        "copying": lambda i: np.copyto(y[4 * i : 4 * i + 4], x[4 * i : 4 * i + 4]),
    }
    with TwoThreads() as threads:
        return {name: _gain(threads, work, rounds) for name, work in works.items()}


def _gain(threads: TwoThreads, work: Callable[[int], object], rounds: int) -> float:
    taken: Any = np.empty((rounds, 2))
    for turn in taken:
        start = time.perf_counter()
        work(0)
        work(1)
        middle = time.perf_counter()
        threads.run(lambda: work(0), lambda: work(1))
        turn[:] = middle - start, time.perf_counter() - middle
    alone, together = taken.min(axis=0)
    return float(alone / together)
