"""The measured times of a chain of steps, by its cuts: for the planner.

Times are exponential averages. The model's error for a shape is mostly common to its cuts, so cuts not tried yet are
predicted by the model times the geometric mean of measured / modelled of the tried.
"""

import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from groupconv_server.planner.cuts import Cut

TRIALS = 3
"""Runs of a cut, one after another, after which its time is known: the first one compiles, or finds the caches as
another cut left them, and any run may meet a busy moment."""
WEIGHT = 0.2
"""Share of the newest measurement in an average."""
STALE = 0.15
"""A plan is made anew when its measured time is off by more."""
RARELY = 256
"""A plan that is off is made anew after 1, 2, 4, … runs of it, then every so many."""


@dataclass(slots=True)
class Tried:
    """A cut that was run: measured seconds (average), and how often."""

    seconds: float
    times: int = 1


class History:
    """Measured times of one chain of steps on a number of workers. Safe to use from several threads.

    Plans of the chain hold it, so a request need not search for it.

    Attributes:
        runs: numbers the requests that ran the chain alone.
        changes: grows when plans of the chain are to be made anew.
    """

    def __init__(self) -> None:
        self.runs = itertools.count(1)  # `next` is atomic
        self.changes = 0
        self._tried: dict[Cut, Tried] = {}
        self._trials: set[Cut] = set()
        self._trying: list[Cut] = []
        self._lock = threading.Lock()

    def tried(self) -> dict[Cut, Tried]:
        """The cuts that were run, with their times."""
        with self._lock:
            return dict(self._tried)

    def observe(self, cut: Cut, seconds: float, predicted: float) -> None:
        """Learn from a run of the chain, alone.

        Args:
            cut: that it ran under.
            seconds: from dispatch to merge.
            predicted: the seconds that its plan expected.
        """
        with self._lock:
            known = self._tried.get(cut)
            if known is None:
                self._tried[cut] = Tried(seconds)
                self.changes += 1
                return
            known.times = times = known.times + 1
            if times <= TRIALS:  # the fastest of the first few counts
                known.seconds = min(known.seconds, seconds)
            else:
                known.seconds += WEIGHT * (seconds - known.seconds)
            # a plan that is off is made anew ever more rarely, or noise would have it made all the time
            if (times % RARELY == 0 or times & (times - 1) == 0) and abs(math.log(known.seconds / predicted)) > STALE:
                self.changes += 1

    def next_trial(self, promising: Sequence[Cut]) -> Cut | None:
        """The cut that is being tried, or the first of these that was not tried yet. None if there is none."""
        if not promising and not self._trying:
            return None
        with self._lock:
            if not self._trying:
                cut = next((cut for cut in promising if cut not in self._trials), None)
                if cut is None:
                    return None
                self._trials.add(cut)
                self._trying = [cut] * TRIALS
            return self._trying.pop()

    def doubt(self, cut: Cut) -> None:
        """Forget the times of all cuts but this one, and that they were tried."""
        with self._lock:
            self.changes += 1
            self._tried = {c: tried for c, tried in self._tried.items() if c == cut}
            self._trials.clear()
            self._trying.clear()
