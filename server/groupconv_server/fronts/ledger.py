"""What is loaded and registered, as the supervisor holds it: it has all fronts prepare a change, then switches them.

A change goes in two steps. Every front prepares it (`stage`). Then, under a lock, it gets the next number, every front
is sent that number (`commit`), and the number is written into shared memory, where all fronts see it. A front that
starts is brought to the present state under the same lock, before it listens.
"""

import itertools
import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from groupconv.errors import FailedPreconditionError, GroupconvError, NotFoundError, UnavailableError
from groupconv_server.fronts.counters import Counters
from groupconv_server.fronts.disk import Disk
from groupconv_server.fronts.link import Link
from groupconv_server.fronts.replica import Change
from groupconv_server.layers.names import shown

log = logging.getLogger(__name__)

MODELS = ("layer", "network")
"""Kinds that share one space of names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A change that holds.

    Attributes:
        handle: descriptor of its bytes, which a front that starts gets, too.
        epoch: its number.
    """

    change: Change
    handle: int
    epoch: int


class Ledger:
    """The changes that hold. Safe to use from several threads.

    Args:
        counters: get the number of the last change.
        disk: the folder of layers; None keeps none.
    """

    def __init__(self, counters: Counters, disk: Disk | None) -> None:
        self._counters, self.disk = counters, disk
        self._entries: dict[tuple[str, str], Entry] = {}
        self._fronts: dict[int, Link] = {}
        self._numbers, self._version = itertools.count(1), 0
        self._lock = threading.Lock()
        if disk is not None:
            for change, handle in disk.all():
                self._version = max(self._version, change.version)
                self._counters.epoch += 1
                self._entries[_key(change.kind, change.name)] = Entry(change, handle, self._counters.epoch)

    def next_version(self) -> int:
        """A version for what is about to be loaded."""
        with self._lock:
            self._version += 1
            return self._version

    def join(self, index: int, front: Link) -> None:
        """Bring a front to the present state, and have it take part from now on.

        What the front cannot load is dropped: every front of this server would refuse it.
        """
        with self._lock:
            for key, entry in sorted(self._entries.items(), key=lambda item: item[1].epoch):
                number = next(self._numbers)
                try:
                    front.call("stage", number, entry.change, handle=entry.handle)
                except UnavailableError:
                    raise
                except GroupconvError as error:
                    log.error("%s %s was not loaded: %s", entry.change.kind, entry.change.name, error)  # noqa: TRY400
                    if self.disk is not None:
                        self.disk.damaged[entry.change.name] = str(error)
                    os.close(self._entries.pop(key).handle)
                    continue
                front.call("commit", number, entry.epoch)
            self._fronts[index] = front

    def leave(self, index: int) -> None:
        """A front has ended."""
        with self._lock:
            self._fronts.pop(index, None)

    def publish(self, change: Change, handle: int) -> None:
        """Have every front prepare a change, then let it hold for all at once.

        It is dropped if a later version of the same name holds already.

        Args:
            change: that a front asks for.
            handle: descriptor of its bytes, which is the ledger's from now on.

        Raises:
            GroupconvError: a front refuses it, or it cannot be kept on disk; nothing has changed.
        """
        number, kept = next(self._numbers), False
        with self._lock:
            staged = set(self._fronts.values())
        try:
            self._stage(number, change, handle, staged)
            with self._lock:
                late = set(self._fronts.values()) - staged  # they have started meanwhile
                staged |= late
                self._stage(number, change, handle, late)
                kept = self._hold(number, change, handle)
        finally:
            if not kept:
                self._all(staged, "drop", number)
                os.close(handle)

    def remove(self, kind: str, name: str, keep: bool = False) -> None:
        """Remove what has this name at all fronts at once.

        Args:
            kind: of it.
            name: of it.
            keep: whether it stays on disk.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: it cannot be removed from disk; nothing has changed.
        """
        with self._lock:
            entry = self._entries.get(_key(kind, name))
            if entry is None or entry.change.kind != kind:
                raise NotFoundError(f"{kind}: there is none called {shown(name)}")
            if self.disk is not None and not keep and kind in MODELS:
                self.disk.remove(kind, name)
            epoch = self._counters.epoch + 1
            self._all(self._fronts.values(), "commit_removal", kind, name, epoch)
            self._counters.epoch = epoch
            os.close(self._entries.pop(_key(kind, name)).handle)

    def reload(self, name: str, deadline: float | None = None) -> None:
        """Load a layer from disk, unless it is loaded.

        Raises:
            NotFoundError: it is neither loaded nor on disk.
            DataLossError: its files are damaged.
            GroupconvError: a front refuses it.
        """
        if ("model", name) in self._entries:
            return
        if self.disk is None:
            raise NotFoundError(f"layer: there is none called {shown(name)}")
        change, handle = self.disk.read(name, deadline)
        self.publish(change, handle)
        self.disk.damaged.pop(name, None)

    def unloaded(self) -> dict[str, str]:
        """Layers that are only on disk, and the reason for each."""
        if self.disk is None:
            return {}
        return self.disk.others({name for kind in MODELS for name in self.names(kind)})

    def names(self, kind: str) -> list[str]:
        """Names of everything of a kind."""
        with self._lock:
            return [entry.change.name for entry in self._entries.values() if entry.change.kind == kind]

    def _stage(self, number: int, change: Change, handle: int, fronts: Iterable[Link]) -> None:
        started = [(front, front.start("stage", number, change, handle=handle)) for front in fronts]
        failed: list[GroupconvError | RuntimeError] = []  # emptied as one is raised: it knows this frame
        for front, answer in started:
            try:
                answer.result()
            except (GroupconvError, RuntimeError) as error:  # all are waited for: what is staged later is never dropped
                if front.over:
                    continue  # the process has ended, and is replaced by one that starts from what holds
                failed[:] = [error]
        if failed:
            raise failed.pop()

    def _hold(self, number: int, change: Change, handle: int) -> bool:
        key = _key(change.kind, change.name)
        old = self._entries.get(key)
        if old is not None and old.change.kind != change.kind:
            other = old.change.kind
            raise FailedPreconditionError(
                f"there is a {other} called {shown(change.name)}; unload it or choose another name"
            )
        if old is not None and old.change.version > change.version:
            return False
        if self.disk is not None and change.kind in MODELS:
            self.disk.save(change, handle)
        self._version = max(self._version, change.version)
        epoch = self._counters.epoch + 1
        self._all(self._fronts.values(), "commit", number, epoch)
        self._counters.epoch = epoch
        self._entries[key] = Entry(change, handle, epoch)
        if old is not None:
            os.close(old.handle)
        return True

    def _all(self, fronts: Iterable[Link], name: str, *arguments: Any) -> None:
        """Call all fronts and wait for them; one that has gone does not count."""
        for answer in [front.start(name, *arguments) for front in fronts]:
            try:
                answer.result()
            except UnavailableError:
                log.debug("a front has gone before it answered %s", name)


def _key(kind: str, name: str) -> tuple[str, str]:
    return "model" if kind in MODELS else kind, name
