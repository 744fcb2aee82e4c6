"""Retries of a stream whose connection is lost."""

import logging
import math
import time
from typing import Any, Protocol

from groupconv.errors import ForeignServerError, GroupconvError, ResourceExhaustedError, TlsError

log = logging.getLogger(__name__)
PATIENCE = 60.0
"""Seconds without a new band after which a stream without a connection fails."""
FIRST_PATIENCE = 5.0
"""Seconds without a connection after which a stream fails that no server has accepted yet."""


class Resumable(Protocol):
    """A stream that can go on over another connection.

    Attributes:
        done: bands that have arrived, in any unit.
        resumed: how often it was tried again.
        progress: a callback, which may have `show` for texts.
    """

    done: int
    resumed: int
    progress: Any

    @property
    def started(self) -> bool:
        """Whether a server has accepted it."""


class Attempts:
    """When to try a stream again: with growing pauses, as long as bands arrive.

    Args:
        transfer: the stream.
        timeout: seconds for all attempts together, or None.
    """

    def __init__(self, transfer: Resumable, timeout: float | None) -> None:
        self._transfer = transfer
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._done, self._since, self._pause = transfer.done, time.monotonic(), 0.1
        self._reported: float | None = None

    def left(self) -> float | None:
        """Seconds for the next attempt; None if it has no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def apart(self) -> "Attempts":
        """Attempts of one of several calls of the stream, from now on."""
        return Attempts(self._transfer, self.left())

    def pause_after(self, error: Exception) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            Exception: `error`, if there is no time for another attempt.
        """
        now = time.monotonic()
        if self._transfer.done > self._done:
            self._done, self._since, self._pause = self._transfer.done, now, 0.1
        pause, self._pause = self._pause, min(2.0, 2 * self._pause)
        patience = PATIENCE if self._transfer.started else FIRST_PATIENCE
        end = min(self._since + patience, math.inf if self._deadline is None else self._deadline)
        if now + pause > end:
            try:
                raise error
            finally:
                del error  # it knows this frame
        self._transfer.resumed += 1
        if self._since != self._reported:  # once, until bands arrive again
            self._reported = self._since
            state = "busy" if isinstance(error, ResourceExhaustedError) else "away"
            self._report(f"server {state}, retrying for {end - now:.0f} s")
        return max(pause, getattr(error, "retry_after", None) or 0.0)

    def _report(self, text: str) -> None:
        """Show a text beside the progress bar, or log it if there is no bar."""
        show = getattr(self._transfer.progress, "show", None)
        if show is None:
            log.warning(text)
        else:
            show(text)


def may_try_again(error: GroupconvError) -> bool:
    """Whether a call may succeed later: after a lost connection, or when the server is less busy."""
    if isinstance(error, ResourceExhaustedError):
        return error.retry_after is not None
    return not isinstance(error, TlsError | ForeignServerError)
