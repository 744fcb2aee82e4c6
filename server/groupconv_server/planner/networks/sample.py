"""Workers whose parts a search looks at, each in place of some others, so that its time hardly grows with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

WORKERS, SEVERAL, NODES = 9, 5, 3
"""Workers of a single node (or nodes of one worker each), workers of each of several nodes, and such nodes, at most."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some workers of some nodes. Workers are numbered by node; edges, where halos cross, are always among them.

    Attributes:
        workers: their numbers.
        members: for each node that is looked at, the numbers of all its workers.
        starts: for each such node, the index in `workers` of its first one.
        alike: for each worker, how many of its node it stands for.
        nodes: for each node, how many it stands for.
    """

    workers: tuple[int, ...]
    members: tuple[range, ...]
    starts: tuple[int, ...]
    alike: NDArray[np.float64]
    nodes: NDArray[np.float64]

    @classmethod
    def of(cls, nodes: Sequence[int]) -> "Sample":
        """Of nodes with so many workers each.

        Example:
            >>> sample = Sample.of((4, 4))
            >>> sample.workers, sample.members, sample.starts
            ((0, 1, 2, 3, 4, 5, 6, 7), (range(0, 4), range(4, 8)), (0, 4))
            >>> Sample.of((32,)).workers
            (0, 4, 8, 12, 16, 19, 23, 27, 31)
        """
        begins = (0, *accumulate(nodes))
        chosen, node_weights = _spread(len(nodes), NODES if max(nodes) > 1 else WORKERS)
        workers: list[int] = []
        starts, alike, members = [], [], []
        for node in chosen:
            sampled, weights = _spread(nodes[node], WORKERS if len(nodes) == 1 else SEVERAL)
            starts.append(len(workers))
            members.append(range(begins[node], begins[node + 1]))
            workers += [begins[node] + worker for worker in sampled]
            alike += weights
        return cls(tuple(workers), tuple(members), tuple(starts), np.array(alike), np.array(node_weights))

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over all workers, from the values of these (…, workers)."""
        total: NDArray[np.float64] = self.of_nodes(values) @ self.nodes
        return total

    def of_nodes(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over all workers of each node that is looked at (…, nodes), from the values of these (…, workers)."""
        sums: NDArray[np.float64] = np.add.reduceat(values * self.alike, self.starts, -1)
        return sums


def _spread(count: int, most: int) -> tuple[list[int], list[float]]:
    """Numbers below `count`: the first, the last and some between, and how many each stands for."""
    indices = sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
    inner = len(indices) - 2
    return indices, [1.0 if i in (0, count - 1) else (count - 2) / inner for i in indices]
