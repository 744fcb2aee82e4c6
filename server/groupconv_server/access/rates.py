"""Limits of one caller: requests and bytes a second, and requests at a time."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from groupconv.errors import ResourceExhaustedError

BURST_SECONDS = 1.0
"""Seconds of its rate that a quiet caller may use at once."""


@dataclass(frozen=True)
class CallerLimits:
    """The limits of one caller; None is no limit.

    Attributes:
        requests_per_second: requests and streams that begin in a second.
        bytes_per_second: messages in and out together.
        concurrent: requests at a time, waiting ones included.
    """

    requests_per_second: float | None = None
    bytes_per_second: float | None = None
    concurrent: int | None = None


class Bucket:
    """A token bucket that fills at a rate, up to a burst, and may be overdrawn (docs/adr/0020-own-token-bucket.md).

    Args:
        rate: amount it gains in a second.
        burst: amount it holds when full. It is full at first.
        clock: returns seconds.

    Attributes:
        level: amount that it held at `at`.
        at: when that was, by the clock.

    Example:
        >>> now = 0.0
        >>> bucket = Bucket(10, 5, clock=lambda: now)
        >>> bucket.spend(25); bucket.wait_for(1)  # a debt of 20 and the 1 wanted, at 10 a second
        2.1
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self.level, self.at = burst, clock()

    def spend(self, amount: float) -> None:
        """Take out `amount`, even if there is less."""
        self._fill()
        self.level -= amount

    def wait_for(self, amount: float) -> float:
        """Seconds until it holds `amount`; 0 if it does."""
        self._fill()
        return max(0.0, (amount - self.level) / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self.level, self.at = min(self._burst, self.level + (now - self.at) * self._rate), now


class Allowance:
    """One caller's limits and what it has used of them. Safe to use from several threads.

    The size of a message is known only once it is there, so bytes are charged afterwards. A caller in debt has its next
    request refused, and its open streams slowed.

    Args:
        name: of the caller, for error messages.
        rates: its limits.
    """

    def __init__(self, name: str, rates: CallerLimits) -> None:
        self.name, self.rates = name, rates
        requests, nbytes = rates.requests_per_second, rates.bytes_per_second
        self._requests = None if requests is None else Bucket(requests, max(1.0, requests * BURST_SECONDS))
        self._bytes = None if nbytes is None else Bucket(nbytes, nbytes * BURST_SECONDS)
        self._running = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Count a request in.

        Raises:
            ResourceExhaustedError: naming the limit, with the seconds to wait.
        """
        rates = self.rates
        with self._lock:
            if rates.concurrent is not None and self._running >= rates.concurrent:
                raise self._over(f"{rates.concurrent} requests at a time", 1.0)
            if self._bytes is not None and (wait := self._bytes.wait_for(0)):
                raise self._over(f"{rates.bytes_per_second:g} bytes per second", wait)
            if self._requests is not None:
                if wait := self._requests.wait_for(1):
                    raise self._over(f"{rates.requests_per_second:g} requests per second", wait)
                self._requests.spend(1)
            self._running += 1

    def leave(self) -> None:
        """Count a request out."""
        with self._lock:
            self._running -= 1

    def spend(self, nbytes: int) -> float:
        """Charge a message; returns the seconds until the debt is paid."""
        if self._bytes is None:
            return 0.0
        with self._lock:
            self._bytes.spend(nbytes)
            return self._bytes.wait_for(0)

    def _over(self, limit: str, wait: float) -> ResourceExhaustedError:
        message = f"token {self.name}: over its limit of {limit}; try again in {wait:.2g} s"
        return ResourceExhaustedError(message, retry_after=wait)
