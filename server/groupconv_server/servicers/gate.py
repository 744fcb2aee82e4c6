"""The gate every request passes: it bounds those inside, in count and in bytes, and closes when the server stops.

grpc's own `stop` closes connections as soon as the last answer is handed to the transport; a client that is slow to
read may then see a reset in place of its answer. So the gate is closed first, connections staying open: new requests
are UNAVAILABLE, and `stop` is called once those inside have ended.
"""

import threading
import time

from groupconv.errors import ResourceExhaustedError, UnavailableError
from groupconv.text import human_bytes

SHORTEST, LONGEST = 0.05, 30.0
"""Seconds that a refused caller is told to wait, at least and at most."""


class Gate:
    """Who is inside. Safe to use from several threads.

    Args:
        running: requests worked on at a time.
        waiting: that may wait for their turn.
        nbytes: of the messages of all of them.
    """

    def __init__(self, running: int, waiting: int, nbytes: int) -> None:
        self._running, self._waiting, self._most_bytes = running, waiting, nbytes
        self._changed = threading.Condition(threading.Lock())
        self._inside = self._brief = self._bytes = 0
        self._closed = False
        self._seconds = SHORTEST  # that a request takes, waiting included; a running mean

    @property
    def inside(self) -> int:
        """Requests that run or wait."""
        return self._inside

    @property
    def brief(self) -> int:
        """Those of them that are no streams, which may be open and want nothing."""
        return self._brief

    @property
    def nbytes(self) -> int:
        """Bytes of their messages."""
        return self._bytes

    def close(self, timeout: float) -> bool:
        """Let no more requests in and wait for those inside; True if all have left within `timeout` seconds."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: self._inside == 0, timeout)

    def enter(self, *, brief: bool = True) -> "Visit":
        """Let a request in, which is brief if it is no stream.

        Raises:
            UnavailableError: the gate is closed.
            ResourceExhaustedError: as many are inside as may be, with the time to wait.
        """
        with self._changed:
            if self._closed:
                raise UnavailableError("the server is stopping; another one may answer")
            if self._inside >= self._running + self._waiting:
                raise self._full(f"{self._running} requests run and {self._waiting} wait, as many as may")
            self._inside += 1
            self._brief += brief
        return Visit(self, brief=brief)

    def hold(self, visit: "Visit", nbytes: int) -> None:
        """Take in the message of one who is inside; nothing, if it has left.

        Raises:
            ResourceExhaustedError: the messages would be larger together than they may, with the time to wait.
        """
        with self._changed:
            if visit.left:
                return
            if self._bytes and self._bytes + nbytes > self._most_bytes:  # one alone has the limit of a message
                most, held = human_bytes(self._most_bytes), human_bytes(self._bytes)
                raise self._full(
                    f"{held} of requests are held, {human_bytes(nbytes)} more than the {most} there may be"
                )
            self._bytes += nbytes
            visit.nbytes += nbytes

    def leave(self, visit: "Visit") -> None:
        """One leaves, with its messages; once."""
        with self._changed:
            if visit.left:
                return
            visit.left = True
            self._inside -= 1
            self._brief -= visit.brief
            self._bytes -= visit.nbytes
            self._seconds += (time.monotonic() - visit.began - self._seconds) / 16
            self._changed.notify_all()

    def _full(self, why: str) -> ResourceExhaustedError:
        wait = min(LONGEST, max(SHORTEST, self._seconds))  # by then about all who are inside have left
        return ResourceExhaustedError(f"the server is busy: {why}; try again in {wait:.2g} s", retry_after=wait)


class Visit:
    """One request inside; it leaves once, whatever happens."""

    __slots__ = ("_gate", "began", "brief", "left", "nbytes")

    def __init__(self, gate: Gate, *, brief: bool = True) -> None:
        self._gate, self.brief = gate, brief
        self.began = time.monotonic()
        self.nbytes, self.left = 0, False

    def hold(self, nbytes: int) -> None:
        """Bring a message in, until the end of the request.

        Raises:
            ResourceExhaustedError: as `Gate.hold`.
        """
        self._gate.hold(self, nbytes)

    def leave(self) -> None:
        """The end of the request."""
        self._gate.leave(self)
