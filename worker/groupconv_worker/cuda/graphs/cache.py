"""Captured graphs that are idle, kept for the next run as long as there is memory for them."""

import itertools
import weakref
from contextlib import suppress
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

_clock = itertools.count()


class Cacheable(Protocol):
    """What the cache keeps.

    Attributes:
        parts: bytes of each part by its identity. A part that several graphs share counts once.
        used: when it was used last; the clock counts uses.
    """

    parts: dict[int, int]
    used: int


Graph = TypeVar("Graph", bound=Cacheable)


class GraphPool(Generic[Graph]):
    """Interchangeable graphs. A thread that takes one has it for itself until it puts it back."""

    def __init__(self) -> None:
        self.idle: list[Graph] = []
        self.all: weakref.WeakSet[Graph] = weakref.WeakSet()

    def take(self) -> Graph | None:
        """The one used last, or None."""
        try:
            return self.idle.pop()  # atomic
        except IndexError:
            return None

    def put(self, graph: Graph) -> None:
        """Return a graph."""
        graph.used = next(_clock)
        self.idle.append(graph)


class GraphCache:
    """All pools of one engine, bounded in bytes. A pool goes, with its graphs, when its owner drops it.

    Args:
        limit: bytes of all graphs, in use and idle.

    Example:
        >>> class Buffer:
        ...     used = 0
        ...     def __init__(self):
        ...         self.parts = {id(self): 40}
        >>> cache, pool = GraphCache(100), GraphPool()
        >>> first, second, third, fourth = (Buffer() for _ in range(4))
        >>> cache.admit(pool, first), cache.admit(pool, second)
        (True, True)
        >>> pool.put(first)
        >>> del first  # only the pool holds it
        >>> cache.admit(pool, third), len(pool.idle)
        (True, 0)
        >>> cache.admit(pool, fourth)  # second and third are in use
        False
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pools: weakref.WeakSet[GraphPool[Any]] = weakref.WeakSet()
        self._lock = Lock()

    def admit(self, pool: GraphPool[Graph], graph: Graph) -> bool:
        """Whether there is room for a new graph; drops idle ones, least recently used first, to make room."""
        with self._lock:
            self._pools.add(pool)
            while self._bytes_with(graph) > self.limit:
                if not self._drop_one():
                    return False
            pool.all.add(graph)
            return True

    def clear(self) -> bool:
        """Drop all idle graphs; whether there was one."""
        with self._lock:
            dropped = False
            while self._drop_one():
                dropped = True
            return dropped

    def _bytes_with(self, new: Cacheable) -> int:
        parts = dict(new.parts)
        for pool in self._pools:
            for graph in pool.all:
                parts |= graph.parts
        return sum(parts.values())

    def _drop_one(self) -> bool:
        idle = [(graph.used, pool, graph) for pool in self._pools for graph in tuple(pool.idle)]
        if not idle:
            return False
        _, pool, graph = min(idle, key=lambda entry: entry[0])
        with suppress(ValueError):  # another thread has just taken it
            pool.idle.remove(graph)
        return True
