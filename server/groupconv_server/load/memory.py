"""The server's memory during a long load, from its metrics."""

import http.client
import re
import time
import urllib.request

import numpy as np

from groupconv.errors import InvalidArgumentError

RESIDENT = re.compile(r"^process_resident_memory_bytes(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class MemoryProbe:
    """Samples `process_resident_memory_bytes` of a server's metrics.

    Args:
        url: of the metrics, for example http://localhost:9464/metrics.
        every: seconds between samples.
    """

    def __init__(self, url: str, every: float = 5.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidArgumentError("--metrics", "a URL such as http://localhost:9464/metrics", url)
        self.url, self._every, self._start = url, every, time.monotonic()
        self.samples: list[tuple[float, float]] = []

    def begin(self) -> None:
        """Start to sample now."""
        self.samples.clear()
        self._start = time.monotonic()

    def due(self) -> bool:
        """Whether the next sample is due."""
        last = self.samples[-1][0] if self.samples else -self._every
        return time.monotonic() - self._start - last >= self._every

    def sample(self) -> None:
        """Take a sample: NaN if the server does not answer or has no such metric."""
        try:
            with urllib.request.urlopen(self.url, timeout=5) as answer:  # noqa: S310 - the scheme is checked
                resident = RESIDENT.search(answer.read().decode())
        except (OSError, ValueError, http.client.HTTPException):
            resident = None
        self.samples.append((time.monotonic() - self._start, float(resident[1]) if resident else float("nan")))


def growth(samples: list[tuple[float, float]]) -> float:
    """Growth in bytes per second: the slope of the second half of the samples, when caches are full.

    Example:
        >>> growth([(0, 0), (10, 500), (20, 500), (30, 510), (40, 520)])
        1.0
    """
    at, size = np.array(samples, dtype=float).reshape(-1, 2).T
    late = (at >= at.max(initial=0) / 2) & np.isfinite(size)
    return round(float(np.polyfit(at[late], size[late], 1)[0]), 6) if late.sum() > 1 else float("nan")
