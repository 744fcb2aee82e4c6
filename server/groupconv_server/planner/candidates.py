"""The cuts that the planner considers, as rows of one matrix: parts along up to three dimensions."""

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution.cuts import NOTHING
from groupconv_server.planner.cuts import Cut, dimensions

EVERY = 16
"""All numbers of shards up to this one are considered. Above it, only those that leave few workers idle, and halves."""


@lru_cache(maxsize=64)
def grids(rank: int, workers: int) -> NDArray[np.int64]:
    """Parts along (group, batch, filter, space…, channel), one candidate a row; row 0 is "do not split".

    Example:
        >>> grids(1, 2).tolist()
        [[1, 1, 1, 1, 1], [2, 1, 1, 1, 1], [1, 2, 1, 1, 1], [1, 1, 2, 1, 1], [1, 1, 1, 2, 1], [1, 1, 1, 1, 2]]
    """
    dims = 4 + rank
    rows = [[1] * dims]
    for count in _counts(workers):
        most = 3 if workers <= 64 or count > workers // 2 else 2
        for used in range(1, most + 1):
            for factors in _products(count, used):
                for where in itertools.combinations(range(dims), used):
                    row = [1] * dims
                    for k, n in zip(where, factors, strict=True):
                        row[k] = n
                    rows.append(row)
    matrix = np.array(rows, dtype=np.int64)
    matrix.setflags(write=False)
    return matrix


def cut_of(row: NDArray[Any]) -> Cut:
    """A row of `grids` as a cut."""
    group, batch, filters, *space, channel = map(int, row)
    return Cut(group, batch, filters, tuple(space), channel)


def along(matrix: NDArray[np.int64], kind: str, rank: int) -> NDArray[np.bool_]:
    """Which rows of `grids` are cut along exactly the dimensions in the name of a cut.

    Example:
        >>> matrix = grids(1, 2)
        >>> matrix[along(matrix, "width", 1)].tolist(), along(matrix, "rows", 1).any()
        ([[1, 1, 1, 2, 1]], np.False_)
    """
    names, wanted = dimensions(rank), set(kind.split(" × ")) - {NOTHING}
    if not wanted <= set(names):
        return np.zeros(len(matrix), dtype=np.bool_)
    matches: NDArray[np.bool_] = ((matrix > 1) == [name in wanted for name in names]).all(axis=1)
    return matches


def row_of(cut: Cut, rank: int) -> tuple[int, ...]:
    """A cut as a row of `grids`."""
    return (cut.group, cut.batch, cut.filter, *(cut.space or (1,) * rank), cut.channel)


def _counts(workers: int) -> list[int]:
    counts = set(range(2, min(workers, EVERY) + 1))
    n = workers
    while n > EVERY:
        counts |= {n, n - n % 4, n - n % 16, 3 * n // 4 - 3 * n // 4 % 4}
        n //= 2
    return sorted(counts)


def _products(count: int, factors: int) -> Iterator[tuple[int, ...]]:
    """Ways to write `count` as an ordered product of numbers > 1."""
    if factors == 1:
        yield (count,)
        return
    for first in range(2, count // 2 + 1):
        if count % first == 0:
            for rest in _products(count // first, factors - 1):
                if all(r > 1 for r in rest):
                    yield (first, *rest)
