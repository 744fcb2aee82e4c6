"""The audit: a line for every request that did not end with OK, with who asked and why not."""

import logging

from groupconv_server.telemetry.request import Request

log = logging.getLogger("groupconv.audit")

FAILURES = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS", "ABORTED"})
"""Statuses that are the server's fault."""
GIVEN_UP = frozenset({"CANCELLED", "DEADLINE_EXCEEDED"})
"""Statuses of requests whose caller did not wait."""


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
    fields = {"code": code, "method": request.method, "peer": peer, "token": request.token, "field": request.field}
    log.log(level, event, extra=fields | {"reason": reason, "seconds": round(seconds, 6), "request_id": request.id})
    return level == logging.WARNING


def done(request: Request, seconds: float) -> None:
    """A line for a request that was answered, for whoever asked for DEBUG."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    fields = {"method": request.method, "seconds": round(seconds, 6), "request_id": request.id}
    log.debug("request done", extra=fields)
