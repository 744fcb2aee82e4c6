"""Kernels that stay on a worker: the weights of resident layers, prepared once for their algorithm.

The store is a cache. A kernel that left it, or that was lost with its process, is prepared again from weights that are
sent again. So a full store costs time and never an answer.
"""

import functools
import itertools
import threading
from dataclasses import replace
from typing import NamedTuple

from groupconv_worker.contract import Prepared, Problem
from groupconv_worker.improvement import InterimKernel

CAPACITY = 2**30
"""Bytes of prepared kernels that a worker keeps unless told otherwise."""
OVERHEAD = 8192
"""Bytes of a kernel in the store beside its arrays: the Python objects around them, as measured."""


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
    """A stage came without its weights, and they are not prepared here: send them."""


class ResidentKernel:
    """An entry of `ResidentKernels`.

    Attributes:
        store: which it belongs to.
        prepared: the kernel; None once it has left the store.
        size: bytes that it counts against the capacity.
        used: when it was used last, on the store's `clock`.
    """

    __slots__ = ("prepared", "size", "store", "used")

    def __init__(self, store: "ResidentKernels", prepared: Prepared) -> None:
        self.store = store
        self.prepared: Prepared | None = prepared
        self.size = prepared.nbytes + OVERHEAD
        self.used = next(store.clock)


class ResidentKernels:
    """Prepared kernels by layer and problem. When the store is full, the least recently used ones leave.

    A kernel that alone is larger than the capacity is not kept: it is prepared for each shard. Safe to use from several
    threads.

    Args:
        capacity: bytes that all prepared kernels may hold together (`Prepared.nbytes`, and `OVERHEAD` for each).

    Attributes:
        capacity: as given.
        bytes: that it holds.
        clock: counts uses. A kernel that is used without `find` takes the next number.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> from groupconv_worker.engines import create_engine
        >>> import numpy as np
        >>> x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))
        >>> problem = Problem(resolve(ConvSpec(), x.shape, w.shape), types_of(x.dtype, w.dtype))
        >>> store, key = ResidentKernels(), ResidentKey("edge", 1, 0, ((0, 1), (0, 1), (0, 3)))
        >>> store.find(key, problem) is None
        True
        >>> kept = store.add(key, problem, create_engine("reference").prepare(problem, w, resident=True))
        >>> store.find(key, problem) is kept, store.bytes == w.nbytes + OVERHEAD
        (True, True)
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity, self.bytes, self.clock = capacity, 0, itertools.count()
        self._kept: dict[tuple[ResidentKey, Problem], ResidentKernel] = {}
        self._lock = threading.Lock()

    def find(self, key: ResidentKey, problem: Problem) -> ResidentKernel | None:
        """The kernel that was prepared for this part and problem; None if it is not here.

        Args:
            key: which part.
            problem: of one sample (`of_one_sample`), as kernels serve any batch.
        """
        kernel = self._kept.get((key, problem))
        if kernel is not None:
            kernel.used = next(self.clock)
        return kernel

    def add(self, key: ResidentKey, problem: Problem, prepared: Prepared) -> ResidentKernel | None:
        """Keep a kernel, in place of the least recently used ones where there is no room.

        Returns:
            The kernel in the store, which is another thread's if that was faster; None if it is too large.
        """
        new = ResidentKernel(self, prepared)
        with self._lock:
            kernel = self._kept.get((key, problem))
            if kernel is None and new.size <= self.capacity:
                while self.bytes + new.size > self.capacity:
                    self._drop(min(self._kept, key=lambda k: self._kept[k].used))
                kernel = self._kept[key, problem] = new
                self.bytes += new.size
        if kernel is new and type(prepared) is InterimKernel:
            prepared.improvement.then(lambda: self._replace((key, problem), new))
        return kernel

    def forget(self, layer: str, version: int) -> None:
        """Drop every part of a layer's version."""
        with self._lock:
            for key in [k for k in self._kept if (k[0].layer, k[0].version) == (layer, version)]:
                self._drop(key)

    def _replace(self, key: tuple[ResidentKey, Problem], kernel: ResidentKernel) -> None:
        """Drop a kernel, if it is still here, as a better one can be prepared: the next shard does so."""
        with self._lock:
            if self._kept.get(key) is kernel:
                self._drop(key)

    def _drop(self, key: tuple[ResidentKey, Problem]) -> None:
        kernel = self._kept.pop(key)
        self.bytes -= kernel.size
        kernel.prepared = None


@functools.lru_cache(maxsize=4096)
def of_one_sample(problem: Problem) -> Problem:
    """The same problem with a batch of 1. Equal problems give the same object, which dicts find by identity."""
    g = problem.geometry
    return problem if g.batch == 1 else replace(problem, geometry=g.with_batch(1))
