"""Whether joining requests gains: measured, for each layer and shape."""

import logging
import math
import statistics
from collections import deque

log = logging.getLogger(__name__)

WINDOW = 128
"""Samples after which it is reckoned how long one took."""
TRIES = 3
"""Windows of either kind whose median decides."""
MARGIN = 0.97
"""Of the time alone that a sample may take joined."""
EVERY = 16
"""Of so many windows one is of the other kind, for what was measured to stay true."""
IDLE = 0.05
"""Seconds without a run after which a window begins anew: nothing was waited for."""


class BatchingGain:
    """How fast samples come out of the server joined and alone, and what follows from it.

    The time of a run would not do: what a batch costs, or saves, beside it counts as much.

    Args:
        name: of what is run.

    Example:
        >>> gain, now = BatchingGain("conv2"), 0.0
        >>> for _ in range(1000):
        ...     requests = gain.most(8)
        ...     now += 0.004 if requests == 1 else 0.008
        ...     gain.ran(requests, now)
        >>> gain.pays
        True
        >>> print(gain)
        batching of conv2 is on: 1.000 ms a sample, alone 4.000
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.pays: bool | None = None
        """None until both were tried."""
        self._joining = False
        self._alone: deque[float] = deque(maxlen=TRIES)
        self._joined: deque[float] = deque(maxlen=TRIES)
        self._windows = self._samples = 0
        self._since = self._last = -math.inf

    def most(self, most: int) -> int:
        """Requests to join now, at most."""
        return most if self._joining else 1

    def ran(self, samples: int, now: float) -> None:
        """Note that so many samples are done."""
        idle, self._last = now - self._last > IDLE, now
        if idle:
            self._since, self._samples = now, 0
            return
        self._samples += samples
        if self._samples < WINDOW:
            return
        (self._joined if self._joining else self._alone).append((now - self._since) / self._samples)
        self._since, self._samples = now, 0
        self._windows += 1
        if min(len(self._alone), len(self._joined)) < TRIES:
            self._joining = not self._joining
            return
        pays = statistics.median(self._joined) < MARGIN * statistics.median(self._alone)
        if pays != self.pays:
            self.pays = pays
            log.info("%s", self)
        self._joining = pays != (self._windows % EVERY == 0)

    def __str__(self) -> str:
        if self.pays is None:
            return f"batching of {self._name} is not yet known to pay"
        alone, joined = (statistics.median(costs) * 1e3 for costs in (self._alone, self._joined))
        state = "on" if self.pays else "off, as it does not pay"
        return f"batching of {self._name} is {state}: {joined:.3f} ms a sample, alone {alone:.3f}"
