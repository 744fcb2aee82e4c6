"""How much one caller may ask: requests and bytes in a second, requests at a time."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from groupconv.errors import ResourceExhaustedError

BURST_SECONDS = 1.0
"""How much of its rate a caller that was quiet may use at once."""


@dataclass(frozen=True)
class CallerLimits:
    """The limits of one caller; None is no limit of its own.

    Attributes:
        requests_per_second: that begin, streams too.
        bytes_per_second: of messages, in and out together.
        concurrent: requests at a time, waiting ones too.
    """

    requests_per_second: float | None = None
    bytes_per_second: float | None = None
    concurrent: int | None = None


class Bucket:
    """A token bucket: it fills at a rate, up to a burst, and may be overdrawn.

    Args:
        rate: a second.
        burst: what it holds when full, as it is at first.
        clock: seconds.

    Example:
        >>> now = 0.0
        >>> bucket = Bucket(10, 5, clock=lambda: now)
        >>> bucket.spend(25); bucket.wait_for(1)  # a debt of 20 and the 1 asked for, at 10 a second
        2.1
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._level, self._at = burst, clock()

    def spend(self, amount: float) -> None:
        """Take out `amount`, whether it is there or not."""
        self._fill()
        self._level -= amount

    def wait_for(self, amount: float) -> float:
        """Seconds until it holds `amount`; 0 if it does."""
        self._fill()
        return max(0.0, (amount - self._level) / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._level, self._at = min(self._burst, self._level + (now - self._at) * self._rate), now


class Allowance:
    """What is left of one caller's rates. Safe to use from several threads.

    The size of a message is known only once it is there, so bytes are paid for afterwards: who is in debt is refused
    the next request, and a stream that is under way is slowed.

    Args:
        name: of the caller, for the messages.
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
        """Begin a request.

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
        """End one."""
        with self._lock:
            self._running -= 1

    def spend(self, nbytes: int) -> float:
        """Pay for a message; the seconds after which the debt is gone."""
        if self._bytes is None:
            return 0.0
        with self._lock:
            self._bytes.spend(nbytes)
            return self._bytes.wait_for(0)

    def _over(self, limit: str, wait: float) -> ResourceExhaustedError:
        message = f"token {self.name}: over its limit of {limit}; try again in {wait:.2g} s"
        return ResourceExhaustedError(message, retry_after=wait)
