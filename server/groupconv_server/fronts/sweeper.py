"""Regions of clients that have gone: only the supervisor knows when each front used a region last."""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from groupconv.errors import AlreadyExistsError, NotFoundError, ResourceExhaustedError
from groupconv_server.fronts.ledger import Ledger
from groupconv_server.fronts.replica import Change
from groupconv_server.memory.connections import connected_to

log = logging.getLogger(__name__)

KINDS = ("region", "client region")
"""Tables of regions: of the Open Inference Protocol's clients, and of the SDK's."""
GRACE, INTERVAL = 10.0, 1.0
"""Seconds that a region stays after its last use once its owner has gone, and between looks."""


class Sweeper:
    """Registers regions, and drops them for all fronts when their clients have gone.

    Args:
        ledger: of all fronts.
        gather: calls a handler of each front.
        port: that clients are connected to.
    """

    def __init__(self, ledger: Ledger, gather: Callable[..., list[Any]], port: int) -> None:
        self._ledger, self._gather, self._port = ledger, gather, port
        self._stopping, self._registering = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="regions", daemon=True)
        self._thread.start()

    def publish(self, change: Change, handle: int) -> None:
        """As of `Ledger.publish`. Where a name or the bytes are taken, regions of clients that have gone leave."""
        if change.kind not in KINDS:
            self._ledger.publish(change, handle)
            return
        try:
            with self._registering:
                try:
                    self._ledger.publish(change, os.dup(handle))
                except (AlreadyExistsError, ResourceExhaustedError):
                    self._sweep(change.kind, 0.0)
                    self._ledger.publish(change, os.dup(handle))
        finally:
            os.close(handle)

    def remove(self, kind: str, names: list[str]) -> None:
        """Drop regions."""
        for name in names:
            with suppress(NotFoundError):  # another client was faster
                self._ledger.remove(kind, name)

    def remove_of(self, kind: str, owner: str) -> None:
        """Drop the regions of one owner."""
        self.remove(kind, [name for name, (last, _) in self._uses(kind).items() if last == owner])

    def close(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(INTERVAL):
            for kind in KINDS:
                if self._ledger.names(kind):
                    self._sweep(kind, GRACE)

    def _sweep(self, kind: str, grace: float) -> None:
        uses = self._uses(kind)
        here = connected_to(self._port, {owner for owner, _ in uses.values()})
        before = time.monotonic() - grace
        self.remove(kind, [name for name, (owner, used) in uses.items() if owner not in here and used <= before])

    def _uses(self, kind: str) -> dict[str, tuple[str, float]]:
        """The owner that used each region last at any front, and when."""
        latest: dict[str, tuple[str, float]] = {}
        for uses in self._gather("uses", kind):
            for name, use in uses.items():
                latest[name] = max(latest.get(name, use), use, key=lambda use: use[1])
        return latest
