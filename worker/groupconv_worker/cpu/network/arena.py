"""One block of memory for all tensors of a network: those that are not alive together share their bytes."""

from collections.abc import Sequence
from typing import NamedTuple

ALIGNMENT = 64
"""Offsets are multiples of it: a cache line."""


class Lifetime(NamedTuple):
    """A tensor's memory.

    Attributes:
        nbytes: of it.
        first, last: the first and the last stage that read or write it.
    """

    nbytes: int
    first: int
    last: int


def place(tensors: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Where each tensor lies, and the bytes of the whole: the largest first, each in the lowest gap that it fits.

    Example:
        >>> place([Lifetime(64, 0, 1), Lifetime(128, 1, 2), Lifetime(64, 2, 3)])
        ([128, 0, 128], 192)
    """
    offsets = [0] * len(tensors)
    placed: list[int] = []
    end = 0
    for number in sorted(range(len(tensors)), key=lambda i: (-tensors[i].nbytes, tensors[i].first)):
        size, first, last = tensors[number]
        at = 0
        for other in placed:  # by offset
            there = tensors[other]
            if there.first <= last and first <= there.last:
                if offsets[other] - at >= size:
                    break
                at = max(at, -(-(offsets[other] + there.nbytes) // ALIGNMENT) * ALIGNMENT)
        offsets[number] = at
        placed.append(number)
        placed.sort(key=offsets.__getitem__)
        end = max(end, at + size)
    return offsets, end
