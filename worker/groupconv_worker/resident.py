"""Kernels that stay on a worker, prepared once: the weights of resident layers, in the form their algorithm wants.

The store is a cache. What it has dropped, or lost with its process, is prepared again from weights that are sent
again, so a full store costs time and never an answer.
"""

import functools
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from groupconv_worker.contract import Prepared, Problem

CAPACITY = 2**30
"""Bytes of weights a worker keeps prepared unless told otherwise."""


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


@dataclass(slots=True)
class _Kept:
    """A prepared kernel, the bytes of its weights, and when it was last asked for."""

    prepared: Prepared
    bytes: int
    used: int


class Resident:
    """Prepared kernels by layer and problem; the least recently used ones leave when it is full.

    Args:
        capacity: bytes of weights, as they were sent.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> from groupconv_worker.engines import create_engine
        >>> import numpy as np
        >>> x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))
        >>> problem = Problem(resolve(ConvSpec(), x.shape, w.shape), types_of(x.dtype, w.dtype))
        >>> store, key = Resident(), ResidentKey("edge", 1, 0, ((0, 1), (0, 1), (0, 3)))
        >>> prepare = lambda one: create_engine("reference").prepare(one, w, resident=True)
        >>> store.get(key, problem, w.nbytes, prepare) is store.get(key, problem, w.nbytes, prepare)
        True
        >>> store.has(key, problem), store.bytes
        (True, 24)
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.bytes = 0
        self._kept: dict[tuple[ResidentKey, Problem], _Kept] = {}
        self._clock = itertools.count()
        self._lock = threading.Lock()

    def has(self, key: ResidentKey, problem: Problem) -> bool:
        """Whether this part is here, prepared for such a problem."""
        return (key, problem) in self._kept

    def get(self, key: ResidentKey, problem: Problem, size: int, prepare: Callable[[Problem], Prepared]) -> Prepared:
        """This part, prepared: the kept one, or what `prepare` makes of the problem, kept from now on.

        Args:
            key: which part.
            problem: of one sample (`of_one_sample`), as kernels serve any batch.
            size: bytes of the part's weights.
            prepare: called with the problem if nothing is kept.
        """
        known = self._kept.get((key, problem))
        if known is not None:
            known.used = next(self._clock)
            return known.prepared
        made = prepare(problem)  # may take a second of tuning, so not under the lock
        with self._lock:
            if (key, problem) not in self._kept:
                self._kept[key, problem] = _Kept(made, size, next(self._clock))
                self.bytes += size
            while self.bytes > self.capacity and len(self._kept) > 1:
                self._drop(min(self._kept, key=lambda found: self._kept[found].used))
        return made

    def forget(self, layer: str, version: int) -> None:
        """Drop every part of a layer's version."""
        with self._lock:
            for found in [k for k in self._kept if (k[0].layer, k[0].version) == (layer, version)]:
                self._drop(found)

    def _drop(self, found: tuple[ResidentKey, Problem]) -> None:
        self.bytes -= self._kept.pop(found).bytes


@functools.lru_cache(maxsize=4096)
def of_one_sample(problem: Problem) -> Problem:
    """The same problem with a batch of 1; for equal ones the same object, which is found without comparing."""
    g = problem.geometry
    return problem if g.batch == 1 else replace(problem, geometry=g.with_batch(1))
