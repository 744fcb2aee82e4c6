"""A front's copy of what all fronts must agree on: layers, networks, regions of shared memory.

A change is staged at every front first: whatever takes time or may be refused happens then. When all fronts are ready,
the supervisor writes the number of the change into shared memory. A front compares that number before each look-up and
applies what is staged, so the change holds for all at the same moment.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groupconv_server.fronts.counters import Counters


@dataclass(frozen=True, slots=True)
class Change:
    """Something new under a name.

    Attributes:
        kind: "layer", "network" or "region".
        name: of it.
        version: of it; 0 where there are none.
        about: what its kind needs to know beside the bytes of the descriptor that comes with it.
        deadline: by time.monotonic(); preparing ends there. None has none.
    """

    kind: str
    name: str
    version: int
    about: Any
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Staged:
    """A change that is ready: call one of both functions, once."""

    apply: Callable[[], None]
    drop: Callable[[], None]


Stage = Callable[[Change, int], Staged]
"""Prepares a change. It closes the descriptor, or keeps it."""
Remove = Callable[[str], None]


class Replica:
    """What is staged at this front, and applied when it holds. Safe to use from several threads.

    Args:
        counters: have the number of the last change that holds.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters, self._applied = counters, 0
        self._kinds: dict[str, tuple[Stage, Remove]] = {}
        self._staged: dict[int, Staged] = {}
        self._ready: deque[tuple[int, Callable[[], None]]] = deque()
        self._lock = threading.Lock()

    def register(self, kind: str, stage: Stage, remove: Remove) -> None:
        """Have changes of a kind staged by `stage`, and names removed by `remove`."""
        self._kinds[kind] = stage, remove

    def stage(self, number: int, change: Change, handle: int) -> None:
        """Prepare a change.

        Raises:
            GroupconvError: it is refused here.
        """
        self.catch_up()
        self._staged[number] = self._kinds[change.kind][0](change, handle)

    def drop(self, number: int) -> None:
        """Forget a change that another front refused."""
        staged = self._staged.pop(number, None)
        if staged is not None:
            staged.drop()

    def commit(self, number: int, epoch: int) -> None:
        """Have a staged change applied once `epoch` holds."""
        self._add(epoch, self._staged.pop(number).apply)

    def commit_removal(self, kind: str, name: str, epoch: int) -> None:
        """Have a name removed once `epoch` holds."""
        remove = self._kinds[kind][1]
        self._add(epoch, lambda: remove(name))

    def catch_up(self) -> None:
        """Apply every change that holds."""
        if self._counters.epoch != self._applied:
            self._apply()

    def _add(self, epoch: int, apply: Callable[[], None]) -> None:
        with self._lock:
            self._ready.append((epoch, apply))
            if epoch <= self._applied:  # a front that starts is told what holds already
                self._applied = -1

    def _apply(self) -> None:
        with self._lock:
            epoch = self._counters.epoch
            while self._ready and self._ready[0][0] <= epoch:
                self._ready.popleft()[1]()
            self._applied = epoch
