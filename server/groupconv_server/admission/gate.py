"""The gate bounds the requests inside, in count and in bytes, and closes when the server stops.

gRPC's own `stop` closes connections as soon as it has sent the last answer. A client that reads slowly may then see a
reset instead of its answer. So a stopping server closes the gate first: connections stay open, new requests are
UNAVAILABLE, and `stop` is called once the requests inside have ended.
"""

import functools
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

import grpc

from groupconv.errors import GroupconvError, ResourceExhaustedError, UnavailableError
from groupconv.text import human_bytes
from groupconv_server.access.rates import Allowance

READ_SECONDS, READ_RATE = 10.0, 2**20
"""Seconds a client has to read an answer when others need the room, and bytes a second on top."""
SHORTEST, LONGEST = 0.05, 30.0
"""Bounds of the seconds that a refused caller should wait."""


class Gate:
    """Counts the requests inside. Safe to use from several threads.

    Args:
        running: requests that may run at a time.
        waiting: requests that may wait.
        nbytes: memory that all of them may hold.
        make_room: ends a call that has sent nothing yet; False if there is none.

    Attributes:
        inside: number of requests that run or wait.
        brief: those of them that are no streams. A stream may be open and want nothing.
        inside_elsewhere, nbytes_elsewhere: of the server's other processes, which have the same limits.
        unawaited: those of them that a stopping server does not wait for.
        nbytes: memory that they hold.
        unread: when each answer began to wait for its client, and its gRPC context. Needs no lock.
        lock: guards the counts and `seconds`.
        seconds: running mean of a request's time, waiting included.
        most_bytes: limit of `nbytes`.
        closed: True once the server stops.
        left: notified when a request leaves a closed gate.
    """

    inside_elsewhere: int = 0
    nbytes_elsewhere: int = 0

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

    def enter(self, caller: Allowance | None = None, *, brief: bool = True, awaited: bool = True) -> "Ticket":
        """Let a request in.

        Args:
            caller: the limits of its token; None has none.
            brief: False for a stream.
            awaited: False if a stopping server does not wait for it.

        Raises:
            UnavailableError: the gate is closed.
            ResourceExhaustedError: the caller or the server is at a limit; with the time to wait.
        """
        if caller is not None:
            caller.enter()
        most = self._running + self._waiting
        full = self.inside + self.inside_elsewhere >= most
        if full and not self.closed and (self.make_room() or self.end_slow_readers()):
            most += 1  # the place of a call that ends
        try:
            with self.lock:
                if self.closed and awaited:
                    raise UnavailableError("the server is stopping; another one may answer")
                self.inside += 1  # before the others are looked at, who do the same
                if self.inside + self.inside_elsewhere > most:
                    self.inside -= 1
                    raise self.full(f"{self._running} requests run and {self._waiting} wait, as many as may")
                self.brief += brief
                self.unawaited += not awaited
        except GroupconvError:
            if caller is not None:
                caller.leave()
            raise
        return Ticket(self, caller, brief=brief, awaited=awaited)

    def everywhere(self) -> Callable[[], int]:
        """A function that returns how many requests, which are no streams, run or wait in all processes."""
        return functools.partial(getattr, self, "brief")

    def end_slow_readers(self) -> bool:
        """Cancel the calls whose clients take too long to read an answer; False if there is none. Needs no lock."""
        now = time.monotonic()
        late = [t for t, (since, _) in self.unread.copy().items() if now > since + READ_SECONDS + t.nbytes / READ_RATE]
        for ticket in late:
            _, context = self.unread.pop(ticket, (now, None))
            if context is not None:
                context.cancel()
        return bool(late)

    def full(self, why: str) -> ResourceExhaustedError:
        """The error for a caller when there is no room."""
        wait = min(LONGEST, max(SHORTEST, self.seconds))  # by then about all who are inside have left
        return ResourceExhaustedError(f"the server is busy: {why}; try again in {wait:.2g} s", retry_after=wait)


class Ticket:
    """The admission of one call, until gRPC reports that it has ended.

    Attributes:
        caller: the limits of its token, or None.
        nbytes: the memory it holds.
        ended: True once the call has ended.
    """

    __slots__ = ("_awaited", "_began", "_brief", "_gate", "_open", "caller", "ended", "nbytes")

    def __init__(self, gate: Gate, caller: Allowance | None = None, *, brief: bool, awaited: bool = True) -> None:
        self._gate, self.caller, self._brief, self._awaited = gate, caller, brief, awaited
        self._began = time.monotonic()
        self.nbytes, self.ended = 0, False
        self._open = threading.Lock()  # held until the call ends; an Event costs ten times as much
        self._open.acquire()

    def renew(self, nbytes: int) -> None:
        """Count a stream's next message, and release the memory of the one before.

        Raises:
            ResourceExhaustedError: all requests together would hold more than they may; with the time to wait.
        """
        with self._gate.lock:
            if not self.ended:
                self._gate.nbytes -= self.nbytes
                self.nbytes = 0
        self.hold(nbytes)

    def hold(self, nbytes: int) -> None:
        """Count the memory of a message until the end of the call.

        Raises:
            ResourceExhaustedError: all requests together would hold more than they may; with the time to wait.
        """
        gate = self._gate
        with gate.lock:
            if self.ended:
                return
            gate.nbytes += nbytes
            held = gate.nbytes + gate.nbytes_elsewhere
            if held > max(gate.most_bytes, nbytes):  # one alone has the limit of a message
                gate.nbytes -= nbytes
                raise self._no_room(nbytes)
            self.nbytes += nbytes

    def reserve(self, nbytes: int) -> None:
        """Count memory that is about to be allocated for the call, until its end.

        Raises:
            ResourceExhaustedError: this call alone, or all requests together, would hold more than they may.
        """
        gate = self._gate
        with gate.lock:
            if self.ended:
                return
            if self.nbytes + nbytes > gate.most_bytes:
                needs, most = human_bytes(self.nbytes + nbytes), human_bytes(gate.most_bytes)
                raise ResourceExhaustedError(
                    f"the request needs {needs} with its output and what lies between, more than the {most} that all "
                    "requests may hold: send less at a time, stream it, or have the server started with a larger "
                    "--queue-mib"
                )
            gate.nbytes += nbytes
            if gate.nbytes + gate.nbytes_elsewhere > gate.most_bytes:
                gate.nbytes -= nbytes
                raise self._no_room(nbytes)
            self.nbytes += nbytes

    def offer(self, context: grpc.ServicerContext) -> None:
        """Note that an answer waits for its client from now on."""
        self._gate.unread[self] = time.monotonic(), context
        if self.ended:
            self.taken()

    def taken(self) -> None:
        """Note that the client has read the answer."""
        self._gate.unread.pop(self, None)

    def leave(self) -> None:
        """End the call and release its memory; the first time only."""
        gate = self._gate
        with gate.lock:
            if self.ended:
                return
            self.ended = True
            self.taken()
            gate.inside -= 1
            gate.brief -= self._brief
            gate.unawaited -= not self._awaited
            gate.nbytes -= self.nbytes
            gate.seconds += (time.monotonic() - self._began - gate.seconds) / 16
            if gate.closed:
                gate.left.notify_all()
        if self.caller is not None:
            self.caller.leave()
        self._open.release()

    def ended_within(self, seconds: float) -> bool:
        """Wait until the call ends; False if it does not within `seconds`."""
        if ended := self._open.acquire(timeout=seconds):
            self._open.release()
        return ended

    def _no_room(self, nbytes: int) -> ResourceExhaustedError:
        gate = self._gate
        gate.end_slow_readers()  # what they hold comes back soon, for whoever tries again
        most, held, more = (human_bytes(n) for n in (gate.most_bytes, gate.nbytes + gate.nbytes_elsewhere, nbytes))
        return gate.full(f"requests hold {held}, and {more} more are over the {most} that they may hold")


present: ContextVar[Ticket | None] = ContextVar("ticket", default=None)
"""The ticket of the call that this thread works on."""


def reserve(nbytes: int) -> None:
    """Count memory that the current call is about to allocate (see `Ticket.reserve`). Outside of a call, do nothing."""
    ticket = present.get()
    if ticket is not None:
        ticket.reserve(nbytes)
