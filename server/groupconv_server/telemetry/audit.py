"""The audit log: one line for each request that did not end with OK, with its caller and the reason.

Requests with the same status, method and token are alike. Each second the first `LINES` of them are written, and one
more line gives the number of the rest. So a caller that is refused a thousand times a second does not fill a disk.
"""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

log = logging.getLogger("groupconv.audit")

FAILURES = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
"""Statuses that are the server's fault."""
GIVEN_UP = frozenset({"CANCELLED", "DEADLINE_EXCEEDED"})
"""Statuses of requests whose caller did not wait."""
LINES = 20
"""Lines a second for requests that are alike."""
Kind = tuple[str, str, str]


class Entry(NamedTuple):
    """One request that has ended.

    Attributes:
        code: its status, by name.
        method: full name of the RPC.
        peer: the caller's address, as gRPC has it.
        token: name of its token, or "".
        field: the field that the error is about, or "".
        reason: the error's text.
        seconds: from its arrival to its end.
        request_id: its id.
    """

    code: str
    method: str
    peer: str
    token: str
    field: str
    reason: str
    seconds: float
    request_id: str

    def fields(self) -> dict[str, object]:
        """The fields of its log line."""
        return self._asdict() | {"seconds": round(self.seconds, 6)}


def failed(entry: Entry) -> bool:
    """Log a request that did not end with OK.

    Returns:
        True if the server refused it: the caller had not given up, and nothing failed here.
    """
    event, level = "request refused", logging.WARNING
    if entry.code in FAILURES:
        event, level = "request failed", logging.ERROR
    elif entry.code in GIVEN_UP:
        event, level = "request given up", logging.INFO
    if _tally.wants((entry.code, entry.method, entry.token), level):
        log.log(level, event, extra=entry.fields())
    return level == logging.WARNING


def unread(entry: Entry) -> None:
    """Have a request logged that no thread worked on. Takes no lock, so a destructor may call it."""
    _tally.unread.append(entry)


def done(entry: Entry) -> None:
    """Log a request that was answered, at DEBUG."""
    fields = {"method": entry.method, "seconds": round(entry.seconds, 6), "request_id": entry.request_id}
    log.debug("request done", extra=fields)


def flush() -> None:
    """Log the numbers counted so far."""
    _tally.flush(time.monotonic(), every=True)


@dataclass(slots=True)
class _Count:
    """Requests that are alike, in one second."""

    began: float
    level: int
    written: int = 0
    more: int = 0


class _Tally:
    """Decides which lines are written and counts the others. Safe to use from several threads."""

    def __init__(self) -> None:
        self.unread: deque[Entry] = deque(maxlen=1000)
        self._counts: dict[Kind, _Count] = {}
        self._lock = threading.Lock()
        self._begun = False

    def wants(self, kind: Kind, level: int) -> bool:
        """True if a line of this kind is to be written; else it is counted."""
        now = time.monotonic()
        with self._lock:
            if not self._begun:
                self._begun = True
                threading.Thread(target=self._flush_every_second, name="audit", daemon=True).start()
            count = self._counts.get(kind)
            if count is None:
                count = self._counts[kind] = _Count(now, level)
            count.written += 1
            if count.written <= LINES:
                return True
            count.more += 1
            return False

    def flush(self, now: float, *, every: bool = False) -> None:
        """Log what was counted in seconds that are over, or in all of them."""
        with self._lock:
            over = {kind: count for kind, count in self._counts.items() if every or now - count.began >= 1}
            for kind in over:
                del self._counts[kind]
        for (code, method, token), count in over.items():
            if count.more:
                fields = {"code": code, "method": method, "token": token, "count": count.more}
                seconds = round(now - count.began, 3)
                log.log(count.level, "more requests like the last ones", extra=fields | {"seconds": seconds})
        while self.unread:
            log.warning("request refused", extra=self.unread.popleft().fields())

    def _flush_every_second(self) -> None:
        while True:
            time.sleep(1.0)
            self.flush(time.monotonic())


_tally = _Tally()
