"""Kernels that stay on a worker, prepared once: the weights of resident layers, in the form their algorithm wants.

The store is a cache. What it has dropped, or lost with its process, is prepared again from weights that are sent
again, so a full store costs time and never an answer.
"""

import functools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from cachetools import LRUCache

from groupconv_worker.contract import Prepared, Problem

CAPACITY = 2**30
"""Bytes of prepared kernels that a worker keeps unless told otherwise."""
OVERHEAD = 8192
"""Bytes of a kept kernel beside its arrays: the objects around them, as measured."""


class ResidentKey(NamedTuple):
    """Which part of which layer's weights.

    Attributes:
        layer: name.
        version: of the layer; each load has another one.
        step: position in the layer.
        part: start and stop per dimension of the slice of the step's kernel.
        biased: whether the layer's bias, if it has one, is part of it (a term of a sum has none).
    """

    layer: str
    version: int
    step: int
    part: tuple[tuple[int, int], ...]
    biased: bool = True


class WeightsMissingError(LookupError):
    """A stage came without its weights, and they are not prepared here: they have to be sent."""


class Resident:
    """Prepared kernels by layer and problem; the least recently used ones leave when it is full.

    One that alone is larger than the capacity is not kept: it is prepared for each shard. Safe to use from several
    threads.

    Args:
        capacity: bytes that all prepared kernels may hold together (`Prepared.nbytes`, and `OVERHEAD` for each).

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> from groupconv_worker.engines import create_engine
        >>> import numpy as np
        >>> x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))
        >>> problem = Problem(resolve(ConvSpec(), x.shape, w.shape), types_of(x.dtype, w.dtype))
        >>> store, key = Resident(), ResidentKey("edge", 1, 0, ((0, 1), (0, 1), (0, 3)))
        >>> prepare = lambda one: create_engine("reference").prepare(one, w, resident=True)
        >>> store.get(key, problem, prepare) is store.get(key, problem, prepare)
        True
        >>> store.has(key, problem), store.bytes == w.nbytes + OVERHEAD
        (True, True)
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._kept: LRUCache[tuple[ResidentKey, Problem], Prepared] = LRUCache(capacity, getsizeof=size_of)
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        """Bytes that it may hold."""
        return int(self._kept.maxsize)

    @property
    def bytes(self) -> int:
        """Bytes that it holds."""
        return int(self._kept.currsize)

    def has(self, key: ResidentKey, problem: Problem) -> bool:
        """Whether this part is here, prepared for such a problem."""
        return (key, problem) in self._kept

    def get(self, key: ResidentKey, problem: Problem, prepare: Callable[[Problem], Prepared]) -> Prepared:
        """This part, prepared: the kept one, or what `prepare` makes of the problem, kept from now on.

        Args:
            key: which part.
            problem: of one sample (`of_one_sample`), as kernels serve any batch.
            prepare: called with the problem if nothing is kept.
        """
        with self._lock:
            known = self._kept.get((key, problem))
        if known is not None:
            return known
        made = prepare(problem)  # may take a second of tuning, so not under the lock
        with self._lock:
            known = self._kept.get((key, problem))  # another thread may have made it meanwhile
            if known is None and size_of(made) <= self._kept.maxsize:
                self._kept[key, problem] = made
        return known or made

    def forget(self, layer: str, version: int) -> None:
        """Drop every part of a layer's version."""
        with self._lock:
            for found in [k for k in self._kept if (k[0].layer, k[0].version) == (layer, version)]:
                del self._kept[found]


def size_of(prepared: Prepared) -> int:
    """Bytes that a kept kernel counts as."""
    return prepared.nbytes + OVERHEAD


@functools.lru_cache(maxsize=4096)
def of_one_sample(problem: Problem) -> Problem:
    """The same problem with a batch of 1; for equal ones the same object, which is found without comparing."""
    g = problem.geometry
    return problem if g.batch == 1 else replace(problem, geometry=g.with_batch(1))
