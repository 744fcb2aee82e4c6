"""Counts that hold for all processes: each writes its own words of a shared memory, and reads those of the others.

Nobody takes a lock, so a process that is killed leaves nothing locked; its words are cleared. A limit is checked after
counting and the count is taken back beyond it. So a limit is never exceeded; two processes that take the last place at
the same moment may both be refused.
"""

import mmap
import os
from typing import Any

FIELDS = ("inside", "brief", "nbytes", "streams", "uploads", "threads")
WIDTH = 8
"""Words of a process, of which the first ones are used: a cache line of its own."""


class Counters:
    """The words of all processes, and one that the supervisor writes.

    Args:
        processes: how many.
        index: of this process.
        handle: of the memory; None makes it.

    Attributes:
        handle: a descriptor of the memory.

    Example:
        >>> first = Counters(2)
        >>> second = Counters(2, 1, first.handle)
        >>> first.word("inside").set(3); second.word("inside").set(4)
        >>> first.word("inside").get(), first.word("inside").elsewhere()
        (3, 4)
    """

    def __init__(self, processes: int, index: int = 0, handle: int | None = None) -> None:
        size = (processes + 1) * WIDTH * 8
        self.handle = os.memfd_create("groupconv-counters") if handle is None else handle
        if handle is None:
            os.ftruncate(self.handle, size)
        self._words, self._processes, self._index = memoryview(mmap.mmap(self.handle, size)).cast("q"), processes, index

    @property
    def epoch(self) -> int:
        """The number of the last change that holds."""
        return self._words[0]

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._words[0] = value

    def word(self, field: str) -> "Word":
        """This process's word of a field."""
        positions = [(i + 1) * WIDTH + FIELDS.index(field) for i in range(self._processes)]
        return Word(self._words, positions.pop(self._index), positions)

    def clear(self, index: int) -> None:
        """Clear the words of a process that has ended."""
        for i in range(len(FIELDS)):
            self._words[(index + 1) * WIDTH + i] = 0


class Word:
    """A number of this process, and the same of the others."""

    __slots__ = ("_mine", "_others", "_words")

    def __init__(self, words: memoryview, mine: int, others: list[int]) -> None:
        self._words, self._mine, self._others = words, mine, others

    def get(self) -> int:
        """This process's number."""
        return self._words[self._mine]

    def set(self, value: int) -> None:
        """Write it."""
        self._words[self._mine] = value

    def elsewhere(self) -> int:
        """The sum of the others' numbers."""
        words = self._words
        return sum([words[i] for i in self._others])

    def everywhere(self) -> int:
        """The sum of all numbers."""
        return self.get() + self.elsewhere()


def own(word: str) -> Any:
    """A property that is this process's number, kept in the `Word` of that name."""
    return property(lambda self: getattr(self, word).get(), lambda self, value: getattr(self, word).set(value))


def elsewhere(word: str) -> Any:
    """A property that is the sum of the others' numbers, from the `Word` of that name."""
    return property(lambda self: getattr(self, word).elsewhere())
