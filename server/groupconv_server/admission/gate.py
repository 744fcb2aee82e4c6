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

    Attributes:
        inside: requests that run or wait.
        brief: those of them that are no streams, which may be open and want nothing.
        nbytes: of their messages.
        lock: for whoever changes these, or `seconds`.
        seconds: that a request takes, waiting included; a running mean.
        most_bytes, closed, left: for those inside: the limit, whether they are waited for, and who does.
    """

    def __init__(self, running: int, waiting: int, nbytes: int) -> None:
        self._running, self._waiting, self.most_bytes = running, waiting, nbytes
        self.lock = threading.Lock()
        self.left = threading.Condition(self.lock)
        self.inside = self.brief = self.nbytes = 0
        self.closed = False
        self.seconds = SHORTEST

    def close(self, timeout: float) -> bool:
        """Let no more requests in and wait for those inside; True if all have left within `timeout` seconds."""
        with self.lock:
            self.closed = True
            return self.left.wait_for(lambda: self.inside == 0, timeout)

    def enter(self, *, brief: bool = True) -> "Ticket":
        """Let a request in, which is brief if it is no stream.

        Raises:
            UnavailableError: the gate is closed.
            ResourceExhaustedError: as many are inside as may be, with the time to wait.
        """
        with self.lock:
            if self.closed:
                raise UnavailableError("the server is stopping; another one may answer")
            if self.inside >= self._running + self._waiting:
                raise self.full(f"{self._running} requests run and {self._waiting} wait, as many as may")
            self.inside += 1
            self.brief += brief
        return Ticket(self, brief=brief)

    def full(self, why: str) -> ResourceExhaustedError:
        """What a caller is told that there is no room for."""
        wait = min(LONGEST, max(SHORTEST, self.seconds))  # by then about all who are inside have left
        return ResourceExhaustedError(f"the server is busy: {why}; try again in {wait:.2g} s", retry_after=wait)


class Ticket:
    """One request inside; it leaves once, whatever happens."""

    __slots__ = ("_began", "_brief", "_gate", "_left", "_nbytes")

    def __init__(self, gate: Gate, *, brief: bool) -> None:
        self._gate, self._brief = gate, brief
        self._began = time.monotonic()
        self._nbytes, self._left = 0, False

    def hold(self, nbytes: int) -> None:
        """Bring a message in, until the end of the request; nothing, if it has left.

        Raises:
            ResourceExhaustedError: the messages would be larger together than they may, with the time to wait.
        """
        gate = self._gate
        with gate.lock:
            if self._left:
                return
            if gate.nbytes and gate.nbytes + nbytes > gate.most_bytes:  # one alone has the limit of a message
                most, held = human_bytes(gate.most_bytes), human_bytes(gate.nbytes)
                raise gate.full(f"{held} of requests are held, {human_bytes(nbytes)} more than the {most} there may be")
            gate.nbytes += nbytes
            self._nbytes += nbytes

    def leave(self) -> None:
        """The end of the request, and of its messages."""
        gate = self._gate
        with gate.lock:
            if self._left:
                return
            self._left = True
            gate.inside -= 1
            gate.brief -= self._brief
            gate.nbytes -= self._nbytes
            gate.seconds += (time.monotonic() - self._began - gate.seconds) / 16
            if gate.closed:
                gate.left.notify_all()
