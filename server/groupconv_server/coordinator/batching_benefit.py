"""The benefit of joining requests, measured for each layer and shape."""

import logging
import math
import statistics
from collections import deque

log = logging.getLogger(__name__)

WINDOW = 128
"""Samples after which the time of a sample is computed."""
TRIES = 3
"""Windows, joined and alone, whose median decides."""
MARGIN = 0.97
"""Batching pays if a joined sample takes at most this share of its time alone."""
EVERY = 16
"""One of so many windows is of the other kind, so that both measurements stay recent."""
IDLE = 0.05
"""Seconds without a run after which a window begins anew: no request was waiting."""


class BatchingBenefit:
    """Measures how fast the server answers samples joined and alone, and decides whether to join.

    The time of a run alone does not decide: a batch costs and saves time outside of its run, too.

    Args:
        name: of the layer and shape, for logs.

    Example:
        >>> benefit, now = BatchingBenefit("conv2"), 0.0
        >>> for _ in range(1000):
        ...     requests = benefit.most(8)
        ...     now += 0.004 if requests == 1 else 0.008
        ...     benefit.ran(requests, now)
        >>> benefit.pays
        True
        >>> print(benefit)
        batching of conv2 is on: 1.000 ms a sample, alone 4.000
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.pays: bool | None = None
        """Whether to join; None until both were measured."""
        self._joining = False
        self._alone: deque[float] = deque(maxlen=TRIES)
        self._joined: deque[float] = deque(maxlen=TRIES)
        self._windows = self._samples = 0
        self._since = self._last = -math.inf

    def most(self, most: int) -> int:
        """Requests to join now, at most."""
        return most if self._joining else 1

    def ran(self, samples: int, now: float) -> None:
        """Record that so many samples were answered."""
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
