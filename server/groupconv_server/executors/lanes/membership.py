"""The workers, and which of them takes a shard."""

import threading
import time
from collections.abc import Callable
from typing import Any

from groupconv.errors import DeadlineExceededError, UnavailableError
from groupconv_server.executors.lanes.worker_slots import WorkerSlot, WorkerState

WAIT = 30.0
"""Seconds that a request or a shard waits for a worker when all are away."""


class Membership:
    """Workers that come and go. Whoever makes one adds and removes their slots. Safe to use from several threads.

    Attributes:
        slots: of all workers, in a stable order.
        busy: whether anyone waits for a shard of a worker.
    """

    def __init__(self) -> None:
        self.slots: list[WorkerSlot] = []
        self._changed = threading.Condition(threading.RLock())
        self._stopping = threading.Event()
        self.busy: Callable[[WorkerSlot], bool] = lambda slot: bool(slot.flights)

    def wait_for_change(self, seconds: float) -> None:
        """Return when a worker came or went, or after so many seconds."""
        with self._changed:
            self._changed.wait(seconds)

    def ready(self) -> list[WorkerSlot]:
        """Workers that take shards, in a stable order."""
        with self._changed:
            return [slot for slot in self.slots if slot.ready]

    def wait(self, deadline: float | None) -> list[WorkerSlot]:
        """Workers that take shards, as soon as there is one.

        Raises:
            DeadlineExceededError, UnavailableError: none was ready in time.
        """
        limit = time.monotonic() + WAIT
        limit = limit if deadline is None else min(deadline, limit)
        with self._changed:
            while not (ready := self.ready()):
                left = limit - time.monotonic()
                if left <= 0 or self._stopping.is_set():
                    why = f" ({trouble})" if (trouble := self.trouble()) else ""
                    if left <= 0 and limit == deadline:
                        raise DeadlineExceededError(f"the deadline passed before a worker was ready{why}")
                    raise UnavailableError(f"every worker is away; try again when one has returned{why}")
                self._changed.wait(min(left, 1.0))
            return ready

    def trouble(self) -> str:
        """Why there are fewer workers than there should be, for people; empty if all are there."""
        return ""

    def get(self, worker: str, deadline: float | None) -> WorkerSlot:
        """The worker of this id, ready or being prepared; any ready worker if it is away."""
        with self._changed:
            for slot in self.slots:
                if slot.id == worker and slot.state in (WorkerState.READY, WorkerState.PREPARING):
                    return slot
        return self.any(deadline)

    def any(self, deadline: float | None, but: WorkerSlot | None = None) -> WorkerSlot:
        """The ready worker with the fewest shards, not `but` if there are others; waits if all are away.

        Raises:
            DeadlineExceededError, UnavailableError: none was ready in time.
        """
        ready = self.wait(deadline)
        return min(ready, key=lambda s: (s is but, len(s.flights), s.shards))

    def close(self) -> None:
        """Close the lanes; who waits for a worker waits no longer."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
            slots, self.slots = self.slots, []
        for slot in slots:
            if slot.lane is not None:
                slot.lane.close()

    def lost(self, slot: WorkerSlot, actor: Any) -> None:
        """An actor was lost: its worker gets no shards until it has started again."""
        if slot.lost(actor):
            with self._changed:
                self._changed.notify_all()
