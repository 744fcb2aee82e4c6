"""The audit: a line for every request that did not end with OK, with who asked and why not.

Of requests that fail alike (status, method, token) a few are written down each second and the others counted: a line
says how many there were. So a caller that is refused a thousand times a second does not fill a disk.
"""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

from groupconv_server.telemetry.request import Request

log = logging.getLogger("groupconv.audit")

FAILURES = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS", "ABORTED"})
"""Statuses that are the server's fault."""
GIVEN_UP = frozenset({"CANCELLED", "DEADLINE_EXCEEDED"})
"""Statuses of requests whose caller did not wait."""
LINES = 20
"""Lines a second for requests that fail alike."""
Kind = tuple[str, str, str]


def refused(request: Request, code: str, peer: str, reason: str, seconds: float) -> bool:
    """Write down a request that did not end with OK.

    Returns:
        Whether it was refused: neither given up by the caller nor failed here.
    """
    event, level = "request refused", logging.WARNING
    if code in FAILURES:
        event, level = "request failed", logging.ERROR
    elif code in GIVEN_UP:
        event, level = "request given up", logging.INFO
    if _tally.wants((code, request.method, request.token), level):
        fields = {"code": code, "method": request.method, "peer": peer, "token": request.token, "field": request.field}
        log.log(level, event, extra=fields | {"reason": reason, "seconds": round(seconds, 6), "request_id": request.id})
    return level == logging.WARNING


def unread(request: Request, code: str, reason: str, seconds: float) -> None:
    """Have a request written down that no thread worked on. Takes no lock, so a destructor may call it."""
    _tally.unread.append((request.method, request.token, request.id, code, reason, seconds))


def flush() -> None:
    """Write down what was counted so far."""
    _tally.flush(time.monotonic(), every=True)


@dataclass(slots=True)
class _Count:
    """Requests that fail alike, since a second began."""

    began: float
    level: int
    written: int = 0
    more: int = 0


class _Tally:
    """Which lines are written, and what is said of the others. Safe to use from several threads."""

    def __init__(self) -> None:
        self.unread: deque[tuple[str, str, str, str, str, float]] = deque(maxlen=1000)
        self._counts: dict[Kind, _Count] = {}
        self._lock = threading.Lock()
        self._begun = False

    def wants(self, kind: Kind, level: int) -> bool:
        now = time.monotonic()
        with self._lock:
            if not self._begun:
                self._begun = True
                threading.Thread(target=self._follow, name="audit", daemon=True).start()
            count = self._counts.get(kind)
            if count is None:
                count = self._counts[kind] = _Count(now, level)
            count.written += 1
            if count.written <= LINES:
                return True
            count.more += 1
            return False

    def flush(self, now: float, *, every: bool = False) -> None:
        """Say what was counted in seconds that are over."""
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
            method, token, number, code, reason, seconds = self.unread.popleft()
            fields = {"code": code, "method": method, "peer": "", "token": token, "field": ""}
            extra = fields | {"reason": reason, "seconds": round(seconds, 6), "request_id": number}
            log.warning("request refused", extra=extra)

    def _follow(self) -> None:
        while True:
            time.sleep(1.0)
            self.flush(time.monotonic())


_tally = _Tally()


def done(request: Request, seconds: float) -> None:
    """A line for a request that was answered, for whoever asked for DEBUG."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    fields = {"method": request.method, "seconds": round(seconds, 6), "request_id": request.id}
    log.debug("request done", extra=fields)
