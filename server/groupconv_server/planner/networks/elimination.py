"""The cheapest choice of one value for each variable, where every cost depends on one or two of them.

Variable elimination: a variable is replaced by what its best value costs for each choice of its neighbors, and the one
whose table is smallest comes first. On chains and residual blocks tables have two or three axes.

Source: Dechter, Bucket elimination: a unifying framework for reasoning, Artificial Intelligence 113, 1999; Jia, Zaharia
and Aiken, Beyond data and model parallelism for deep neural networks, 2018, whose node and edge eliminations it has as
cases.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
LARGEST = 10**6
"""Entries of a table. Where one would be larger, a neighbor takes the value that is cheapest for it alone."""


def cheapest(sizes: Sequence[int], costs: Sequence[tuple[tuple[int, ...], Costs]]) -> list[int]:
    """The values that make the sum of all costs least.

    Args:
        sizes: how many values each variable has.
        costs: variables, each once, and a table with an axis for each.

    Example:
        >>> apart = np.array([[0.0, 5.0], [5.0, 0.0]])  # the two want the same value, the second wants 1
        >>> cheapest([2, 2], [((0, 1), apart), ((1,), np.array([3.0, 0.0]))])
        [1, 1]
    """
    tables = _Tables(sizes, costs)
    fixed: dict[int, int] = {}
    eliminated: list[tuple[tuple[int, ...], NDArray[np.intp]]] = []
    while tables.of:
        variable = min(tables.of, key=lambda v: (tables.entries(v), v))
        if tables.entries(variable) > LARGEST:
            variable = max(tables.scope(variable), key=lambda v: (len(tables.of[v]), v))
            fixed[variable] = tables.fix(variable)
        else:
            eliminated.append(tables.eliminate(variable))
    for names, best in reversed(eliminated):
        fixed[names[-1]] = int(best[tuple(fixed[name] for name in names[:-1])])
    return [fixed[variable] for variable in range(len(sizes))]


class _Tables:
    """The costs of the variables that are left.

    Attributes:
        of: the numbers of each variable's tables.
    """

    def __init__(self, sizes: Sequence[int], costs: Sequence[tuple[tuple[int, ...], Costs]]) -> None:
        self._sizes = sizes
        self._tables: dict[int, tuple[tuple[int, ...], Costs]] = {}
        self._numbers = itertools.count()
        self.of: dict[int, set[int]] = {variable: set() for variable in range(len(sizes))}
        for names, table in costs:
            self._add(names, table)

    def scope(self, variable: int) -> set[int]:
        """A variable, and all others that share a table with it."""
        return {variable}.union(*(self._tables[number][0] for number in self.of[variable]))

    def entries(self, variable: int) -> int:
        """Entries of the table over a variable's scope."""
        return math.prod(self._sizes[name] for name in self.scope(variable))

    def eliminate(self, variable: int) -> tuple[tuple[int, ...], NDArray[np.intp]]:
        """Replace a variable by what its best value costs; returns that value for each choice of its neighbors."""
        names = (*sorted(self.scope(variable) - {variable}), variable)
        total = np.zeros([self._sizes[name] for name in names])
        for own, table in self._taken(variable):
            total += _spread(own, table, names)
        self._add(names[:-1], np.asarray(total.min(-1)))
        return names, total.argmin(-1)

    def fix(self, variable: int) -> int:
        """Give a variable the value that is cheapest if each neighbor takes what suits it."""
        total = np.zeros(self._sizes[variable])
        tables = self._taken(variable)
        for names, table in tables:
            total += np.moveaxis(table, names.index(variable), 0).reshape(len(total), -1).min(1)
        value = int(total.argmin())
        for names, table in tables:
            axis = names.index(variable)
            self._add(names[:axis] + names[axis + 1 :], np.asarray(table.take(value, axis)))
        return value

    def _add(self, names: tuple[int, ...], table: Costs) -> None:
        if names:
            number = next(self._numbers)
            self._tables[number] = names, table
            for name in names:
                self.of[name].add(number)

    def _taken(self, variable: int) -> list[tuple[tuple[int, ...], Costs]]:
        """Remove a variable, and its tables."""
        taken = []
        for number in self.of.pop(variable):
            names, table = self._tables.pop(number)
            taken.append((names, table))
            for name in names:
                self.of.get(name, set()).discard(number)
        return taken


def _spread(names: tuple[int, ...], table: Costs, wanted: tuple[int, ...]) -> Costs:
    """A table with its axes in another order, and an axis of extent 1 for each name that it does not have."""
    order = sorted(range(len(names)), key=lambda i: wanted.index(names[i]))
    return table.transpose(order).reshape([table.shape[names.index(w)] if w in names else 1 for w in wanted])
