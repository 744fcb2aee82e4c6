"""The request that this thread works on, for whoever reports on it: logs, the audit, errors, spans.

gRPC runs each request in a context of its own, so what one handler sets here no other request sees.
"""

import itertools
import re
import secrets
from contextvars import ContextVar

ID_KEY = "x-request-id"
"""Of the metadata: taken from the caller, or made, and always returned."""
_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
_prefix, _numbers = secrets.token_hex(6), itertools.count(1)


class Request:
    """One request, as far as it is known.

    Attributes:
        id: the caller's, if it can be logged as it is, or a new one.
        method: full name of the RPC, or "unknown" for one that does not exist.
        token: id of the token it came with, never the token.
        field: of the request that an error is about.
        traced: whether somebody wants spans of it.
    """

    __slots__ = ("field", "id", "method", "token", "traced")

    def __init__(self, method: str, given: str | None = None) -> None:
        self.method = method
        self.id = given if given and _ID.fullmatch(given) else f"{_prefix}-{next(_numbers):x}"
        self.token = self.field = ""
        self.traced = False


current: ContextVar[Request | None] = ContextVar("request", default=None)
"""The request of this thread, or None outside of one."""
