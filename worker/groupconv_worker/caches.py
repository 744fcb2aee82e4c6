"""Caches that are bounded in bytes: for values whose size a request chooses. docs/operations.md lists every cache."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import cachetools

ENTRY = 1024
"""Bytes that an entry counts beside what `size` says: its key, and the objects around its arrays."""
MIB = 2**20

Value = TypeVar("Value")


def bounded(limit: int, size: Callable[[Any], int]) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Keeps what a function returns, by its arguments; the least recently used values leave. For several threads.

    A value larger than the limit is returned and not kept. Two threads that ask for the same at once may both make it.

    Args:
        limit: bytes of all values together.
        size: bytes of one, `ENTRY` not counted.

    Example:
        >>> made = []
        >>> @bounded(limit=3 * ENTRY, size=len)
        ... def text(length):
        ...     made.append(length)
        ...     return "x" * length
        >>> for length in (10, 20, 10, 30, 20, 10_000, 10_000): _ = text(length)
        >>> made
        [10, 20, 30, 20, 10000, 10000]
    """
    cache: cachetools.LRUCache[Any, Any] = cachetools.LRUCache(limit, getsizeof=lambda value: ENTRY + size(value))
    return cachetools.cached(cache, lock=threading.Lock())


def arrays_bytes(value: Any) -> int:
    """Bytes of an array, of a tuple of arrays, or of None."""
    if value is None:
        return 0
    return sum(array.nbytes for array in value) if isinstance(value, tuple) else int(value.nbytes)
