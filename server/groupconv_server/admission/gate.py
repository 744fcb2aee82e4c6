"""The gate every request passes: it bounds those inside, in count and in bytes, and closes when the server stops.

grpc's own `stop` closes connections as soon as the last answer is handed to the transport; a client that is slow to
read may then see a reset in place of its answer. So the gate is closed first, connections staying open: new requests
are UNAVAILABLE, and `stop` is called once those inside have ended.
"""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

import grpc

from groupconv.errors import ResourceExhaustedError, UnavailableError
from groupconv.text import human_bytes

READ_SECONDS, READ_RATE = 10.0, 2**20
"""A client has so many seconds to take an answer, and one more for each so many bytes, where others need the room."""
SHORTEST, LONGEST = 0.05, 30.0
"""Seconds that a refused caller is told to wait, at least and at most."""


class Gate:
    """Counts the requests inside. Safe to use from several threads.

    Args:
        running: requests worked on at a time.
        waiting: that may wait for their turn.
        nbytes: of the memory of all of them.
        make_room: ends a call that has sent nothing yet, if there is one, and tells whether there was.

    Attributes:
        inside: requests that run or wait.
        brief: those of them that are no streams, which may be open and want nothing.
        unawaited: those of them that a server that stops does not wait for.
        nbytes: of the memory they hold.
        unread: requests whose answer waits for its client: since when, and their gRPC context. Needs no lock.
        lock: for whoever changes the counts, or `seconds`.
        seconds: that a request takes, waiting included; a running mean.
        most_bytes, closed, left: for those inside: the limit, whether they are waited for, and who does.
    """

    def __init__(self, running: int, waiting: int, nbytes: int, make_room: Callable[[], bool] = lambda: False) -> None:
        self._running, self._waiting, self.most_bytes = running, waiting, nbytes
        self.make_room = make_room
        self.lock = threading.Lock()
        self.left = threading.Condition(self.lock)
        self.inside = self.brief = self.unawaited = self.nbytes = 0
        self.unread: dict[Ticket, tuple[float, grpc.ServicerContext]] = {}
        self.closed = False
        self.seconds = SHORTEST

    def close(self, timeout: float) -> bool:
        """Let no more requests in and wait for those inside; True if all have left within `timeout` seconds."""
        with self.lock:
            self.closed = True
            return self.left.wait_for(lambda: self.inside == self.unawaited, timeout)

    def enter(self, *, brief: bool = True, awaited: bool = True) -> "Ticket":
        """Let a request in.

        Args:
            brief: it is no stream.
            awaited: a server that stops waits for it.

        Raises:
            UnavailableError: the gate is closed.
            ResourceExhaustedError: as many are inside as may be, with the time to wait.
        """
        most = self._running + self._waiting
        if self.inside >= most and not self.closed and (self.make_room() or self.end_slow_readers()):
            most += 1  # the place of a call that ends
        with self.lock:
            if self.closed and awaited:
                raise UnavailableError("the server is stopping; another one may answer")
            if self.inside >= most:
                raise self.full(f"{self._running} requests run and {self._waiting} wait, as many as may")
            self.inside += 1
            self.brief += brief
            self.unawaited += not awaited
        return Ticket(self, brief=brief, awaited=awaited)

    def end_slow_readers(self) -> bool:
        """End the calls whose clients take too long to read an answer; False if there is none. Needs no lock."""
        now = time.monotonic()
        late = [t for t, (since, _) in self.unread.copy().items() if now > since + READ_SECONDS + t.nbytes / READ_RATE]
        for ticket in late:
            _, context = self.unread.pop(ticket, (now, None))
            if context is not None:
                context.cancel()
        return bool(late)

    def full(self, why: str) -> ResourceExhaustedError:
        """The error for a caller that there is no room for."""
        wait = min(LONGEST, max(SHORTEST, self.seconds))  # by then about all who are inside have left
        return ResourceExhaustedError(f"the server is busy: {why}; try again in {wait:.2g} s", retry_after=wait)


class Ticket:
    """One request inside; it leaves once, whatever happens.

    Attributes:
        nbytes: of the memory it holds.
    """

    __slots__ = ("_awaited", "_began", "_brief", "_gate", "_left", "nbytes")

    def __init__(self, gate: Gate, *, brief: bool, awaited: bool = True) -> None:
        self._gate, self._brief, self._awaited = gate, brief, awaited
        self._began = time.monotonic()
        self.nbytes, self._left = 0, False

    def renew(self, nbytes: int) -> None:
        """Bring a stream's next message in; the one before, and what was reserved for it, is done with.

        Raises:
            ResourceExhaustedError: as `hold`.
        """
        with self._gate.lock:
            if not self._left:
                self._gate.nbytes -= self.nbytes
                self.nbytes = 0
        self.hold(nbytes)

    def hold(self, nbytes: int) -> None:
        """Bring a message in, until the end of the request; nothing, if it has left.

        Raises:
            ResourceExhaustedError: all requests would hold more than they may, with the time to wait.
        """
        gate = self._gate
        with gate.lock:
            if self._left:
                return
            if gate.nbytes and gate.nbytes + nbytes > gate.most_bytes:  # one alone has the limit of a message
                raise self._no_room(nbytes)
            gate.nbytes += nbytes
            self.nbytes += nbytes

    def reserve(self, nbytes: int) -> None:
        """Count memory that is about to be allocated for the request, until its end.

        Raises:
            ResourceExhaustedError: all requests would hold more than they may, with the time to wait; or this one
                would by itself.
        """
        gate = self._gate
        with gate.lock:
            if self._left:
                return
            if self.nbytes + nbytes > gate.most_bytes:
                needs, most = human_bytes(self.nbytes + nbytes), human_bytes(gate.most_bytes)
                raise ResourceExhaustedError(
                    f"the request needs {needs} with its output and what lies between, more than the {most} that all "
                    "requests may hold: send less at a time, stream it, or have the server started with a larger "
                    "--queue-mib"
                )
            if gate.nbytes + nbytes > gate.most_bytes:
                raise self._no_room(nbytes)
            gate.nbytes += nbytes
            self.nbytes += nbytes

    def offer(self, context: grpc.ServicerContext) -> None:
        """From now on an answer waits for its client."""
        self._gate.unread[self] = time.monotonic(), context
        if self._left:
            self.taken()

    def taken(self) -> None:
        """The client has taken the answer."""
        self._gate.unread.pop(self, None)

    def leave(self) -> None:
        """The end of the request, and of the memory it held."""
        gate = self._gate
        with gate.lock:
            if self._left:
                return
            self._left = True
            self.taken()
            gate.inside -= 1
            gate.brief -= self._brief
            gate.unawaited -= not self._awaited
            gate.nbytes -= self.nbytes
            gate.seconds += (time.monotonic() - self._began - gate.seconds) / 16
            if gate.closed:
                gate.left.notify_all()

    def _no_room(self, nbytes: int) -> ResourceExhaustedError:
        gate = self._gate
        gate.end_slow_readers()  # what they hold comes back soon, for whoever tries again
        most, held, more = (human_bytes(n) for n in (gate.most_bytes, gate.nbytes, nbytes))
        return gate.full(f"requests hold {held}, and {more} more are over the {most} that they may hold")


present: ContextVar[Ticket | None] = ContextVar("ticket", default=None)
"""The ticket of the request that this thread works on."""


def reserve(nbytes: int) -> None:
    """Count memory that the present request is about to allocate (see `Ticket.reserve`); outside of one, nothing."""
    ticket = present.get()
    if ticket is not None:
        ticket.reserve(nbytes)
