"""The audit: one line for every request that was refused, or failed, with who asked and why not."""

import logging

from groupconv_server.telemetry.request import Request

log = logging.getLogger("groupconv.audit")

FAILURES = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS", "ABORTED"})
"""Statuses that are the server's fault."""
ENDED = frozenset({"CANCELLED", "DEADLINE_EXCEEDED"})
"""Statuses of requests that the caller gave up."""


def ended(request: Request, code: str, peer: str, reason: str, seconds: float) -> bool:
    """Write down a request that did not end with OK.

    Returns:
        Whether it was refused: neither given up by the caller nor failed here.
    """
    kind = "failed" if code in FAILURES else "given up" if code in ENDED else "refused"
    level = {"failed": logging.ERROR, "given up": logging.INFO, "refused": logging.WARNING}[kind]
    log.log(
        level,
        kind,
        extra={
            "code": code,
            "method": request.method,
            "peer": peer,
            "token": request.token,
            "field": request.field,
            "reason": reason,
            "seconds": round(seconds, 6),
            "request_id": request.id,
        },
    )
    return kind == "refused"
