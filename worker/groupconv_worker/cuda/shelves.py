"""Things made once and used again, as long as there is memory for them."""

import itertools
import weakref
from contextlib import suppress
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

_uses = itertools.count()


class Kept(Protocol):
    """What can stand on a shelf.

    Attributes:
        parts: bytes of what it holds, by identity: what several hold counts once.
        used: when it was used last, on a clock of uses.
    """

    parts: dict[int, int]
    used: int


Thing = TypeVar("Thing", bound=Kept)


class Shelf(Generic[Thing]):
    """Equal things; who takes one has it for itself until it is put back."""

    def __init__(self) -> None:
        self.idle: list[Thing] = []
        self.all: weakref.WeakSet[Thing] = weakref.WeakSet()

    def take(self) -> Thing | None:
        """The one used last, or None."""
        try:
            return self.idle.pop()  # atomic
        except IndexError:
            return None

    def put(self, thing: Thing) -> None:
        """Give it back."""
        thing.used = next(_uses)
        self.idle.append(thing)


class Shelves:
    """All shelves of one engine. A shelf goes, with what stands there, when its owner drops it.

    Args:
        limit: bytes that everything may hold together.

    Example:
        >>> class Book:
        ...     used = 0
        ...     def __init__(self):
        ...         self.parts = {id(self): 40}
        >>> shelves, shelf = Shelves(100), Shelf()
        >>> first, second, third, fourth = (Book() for _ in range(4))
        >>> shelves.admit(shelf, first), shelves.admit(shelf, second)
        (True, True)
        >>> shelf.put(first)
        >>> del first  # stands on the shelf alone
        >>> shelves.admit(shelf, third), len(shelf.idle)
        (True, 0)
        >>> shelves.admit(shelf, fourth)  # second and third are in use
        False
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._shelves: weakref.WeakSet[Shelf[Any]] = weakref.WeakSet()
        self._lock = Lock()

    def admit(self, shelf: Shelf[Thing], thing: Thing) -> bool:
        """Whether there is room for a new thing; what is idle gives way, least recently used first."""
        with self._lock:
            self._shelves.add(shelf)
            while self._with(thing) > self.limit:
                if not self._drop_one():
                    return False
            shelf.all.add(thing)
            return True

    def clear(self) -> bool:
        """Drop all that is idle; whether there was something."""
        with self._lock:
            dropped = False
            while self._drop_one():
                dropped = True
            return dropped

    def _with(self, thing: Kept) -> int:
        """Bytes of all things, and of one more."""
        parts = dict(thing.parts)
        for shelf in self._shelves:
            for there in shelf.all:
                parts |= there.parts
        return sum(parts.values())

    def _drop_one(self) -> bool:
        idle = [(thing.used, shelf, thing) for shelf in self._shelves for thing in tuple(shelf.idle)]
        if not idle:
            return False
        _, shelf, thing = min(idle, key=lambda found: found[0])
        with suppress(ValueError):  # somebody has just taken it
            shelf.idle.remove(thing)
        return True
