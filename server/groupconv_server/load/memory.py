"""The server's memory over a long load, from its metrics."""

import re
import time
import urllib.request

import numpy as np

RESIDENT = re.compile(r"^process_resident_memory_bytes(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class MemoryProbe:
    """Reads `process_resident_memory_bytes` of a server's metrics every so many seconds.

    Args:
        url: of the metrics, as http://localhost:9464/metrics.
        every: seconds.
    """

    def __init__(self, url: str, every: float = 5.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"metrics {url!r}: expected a URL, as http://localhost:9464/metrics")
        self.url, self._every, self._start = url, every, time.monotonic()
        self.samples: list[tuple[float, float]] = []

    def begin(self) -> None:
        """Count from now."""
        self.samples.clear()
        self._start = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to look again."""
        last = self.samples[-1][0] if self.samples else -self._every
        return time.monotonic() - self._start - last >= self._every

    def look(self) -> None:
        """Take a sample; a server that does not answer, or has no such metric, gives NaN."""
        try:
            with urllib.request.urlopen(self.url, timeout=5) as answer:  # noqa: S310 - the scheme is checked
                found = RESIDENT.search(answer.read().decode())
        except OSError:
            found = None
        self.samples.append((time.monotonic() - self._start, float(found[1]) if found else float("nan")))


def growth(samples: list[tuple[float, float]]) -> float:
    """Bytes per second: the slope of the least squares line through the second half, after the caches have filled.

    Example:
        >>> growth([(0, 0), (10, 500), (20, 500), (30, 510), (40, 520)])
        1.0
    """
    at, size = np.array(samples, dtype=float).reshape(-1, 2).T
    kept = (at >= at.max(initial=0) / 2) & np.isfinite(size)
    return round(float(np.polyfit(at[kept], size[kept], 1)[0]), 6) if kept.sum() > 1 else float("nan")
