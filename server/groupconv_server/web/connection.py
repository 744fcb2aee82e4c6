"""A connection of the web port, which ends if its caller stalls between requests."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10.0
"""Seconds between looks at a connection. Headers, and the reading of the last answer, may take up to two of them."""


class Connection(H11Protocol):
    """Ends itself if a request's headers do not come, or if it is closed and its caller does not read the rest.

    uvicorn bounds the pauses between requests alone. It reads no headers beyond 64 KiB.
    """

    _look: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's, too
        """Begin to look after it."""
        super().connection_made(transport)
        self._look_later(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._look.cancel()
        super().connection_lost(exc)

    def _look_later(self, stalled: Any) -> None:
        self._look = self.loop.call_later(SECONDS, self._look_now, stalled)

    def _look_now(self, before: Any) -> None:
        stalls = self.conn.their_state is h11.IDLE or self.transport.is_closing()
        now = (self.cycle or self) if stalls else None  # the last request, if there was one
        if stalls and now is before:
            self.transport.abort()
        else:
            self._look_later(now)
