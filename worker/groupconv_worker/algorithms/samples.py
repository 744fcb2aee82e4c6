"""What the CPU's algorithms share: contiguous samples in the accumulator's dtype; buffers kept."""

import threading
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.special

from groupconv.geometry import Geometry
from groupconv_worker.engines.base import Array, Problem
from groupconv_worker.epilogue import activate

NATIVE = tuple(np.dtype(name) for name in ("float32", "float64", "int32"))
"""The dtypes that accumulate."""
PAD_MODE: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Sampled(Protocol):
    """A kernel for contiguous samples of the accumulator's dtype."""

    algorithm: str

    def run(self, x: Array, y: Array) -> None:
        """Convolve each sample of x (N, C, *input) and add the bias into y (N, M, *output)."""


class Samples:
    """Makes a `Prepared` of a `Sampled`: casts, makes contiguous, pads where the padding is no zeros, activates.

    Args:
        problem: as it was asked for.
        kernel: computes `zero_padded(problem.geometry)`.
        activated: the kernel applies the activation itself.
    """

    def __init__(self, problem: Problem, kernel: Sampled, *, activated: bool) -> None:
        self.problem, self.kernel, self.algorithm = problem, kernel, kernel.algorithm
        self.activation = None if activated else problem.geometry.activation

    def run(self, x: Array, out: Array) -> None:
        """As `Prepared.run`."""
        g, dtype = self.problem.geometry, self.problem.types.accumulate
        zeros, plain = g.padding_mode == "zeros", _is_plain(out, dtype)
        if zeros and plain and self.activation is None and _is_plain(x, dtype):
            self.kernel.run(x, out)
            return
        for n in range(x.shape[0]):  # what else is done to a sample finds it in the caches
            sample, place = x[n : n + 1], out[n : n + 1]
            if not zeros:
                sample = np.pad(sample, ((0, 0), (0, 0), *g.padding), mode=PAD_MODE[g.padding_mode])
            if not _is_plain(sample, dtype):
                sample = _cast(sample, np.empty(sample.shape, dtype))
            y = place if plain else np.empty(place.shape, dtype)
            self.kernel.run(sample, y)
            if self.activation is not None:
                activate(y, self.activation, np, scipy.special.erf)
            if not plain:
                _cast(y, place)


@np.errstate(all="ignore")  # NaN and infinity are data
def _cast(source: Array, target: Array) -> Array:
    """`target`, filled."""
    target[...] = source
    return target


def _is_plain(x: Array, dtype: np.dtype) -> bool:
    """Whether a kernel can use the samples as they lie."""
    return x.dtype == dtype and x.flags.aligned and x[:1].flags.c_contiguous


def zero_padded(g: Geometry) -> Geometry:
    """`g` on an input that already has its padding, if that is no zeros; else `g`."""
    if g.padding_mode == "zeros":
        return g
    return replace(g, input=g.padded, padding=((0, 0),) * g.rank, padding_mode="zeros")


def bias_of(bias: Array | None, g: Geometry, dtype: np.dtype) -> Array:
    """The bias (M,) of `dtype`, zeros if there is none; a copy."""
    return np.zeros(g.out_channels, dtype) if bias is None else bias.astype(dtype)


class Buffer(NamedTuple):
    """Scratch memory: how much, the address of its first cache line, and what holds it."""

    bytes: int
    address: int
    memory: Array


class Buffers:
    """Scratch memory that is kept between runs: fresh memory costs a page fault for each 4 KiB.

    Example:
        >>> buffers = Buffers()
        >>> buffer = buffers.take(100)
        >>> buffer.address % 64, buffer.bytes
        (0, 100)
        >>> buffers.give(buffer)
        >>> buffers.take(50) is buffer
        True
    """

    LIMIT = 32 * 2**20
    """Bytes of a buffer that is kept; a larger one is let go."""
    KEPT = 8
    """Buffers that are kept."""

    def __init__(self) -> None:
        self._free: list[Buffer] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> Buffer:
        """Memory for `size` bytes, nobody else's until it is given back: of what is kept the smallest that fits."""
        with self._lock:
            best = -1
            for i, buffer in enumerate(self._free):
                if buffer.bytes >= size and (best < 0 or buffer.bytes < self._free[best].bytes):
                    best = i
            if best >= 0:
                return self._free.pop(best)
        memory = np.empty(size + 63, np.uint8)
        return Buffer(size, -(-memory.ctypes.data // 64) * 64, memory)

    def give(self, buffer: Buffer) -> None:
        """Give back what was taken."""
        if buffer.bytes <= self.LIMIT:
            with self._lock:
                self._free.append(buffer)
                if len(self._free) > self.KEPT:
                    self._free.pop(min(range(len(self._free)), key=lambda i: self._free[i].bytes))


class Room:
    """An uninitialised array for as long as this object lives: the weights of a one-shot kernel, in packed form.

    Args:
        buffers: where the memory comes from; None for fresh memory, which a resident kernel holds for long.
        count: elements.
        dtype: theirs.
    """

    def __init__(self, buffers: Buffers | None, count: int, dtype: np.dtype) -> None:
        self._buffers, self._buffer = buffers, None
        if buffers is None:
            self.array = np.empty(count, dtype)
            return
        size = count * dtype.itemsize
        self._buffer = buffers.take(size)
        start = self._buffer.address - self._buffer.memory.ctypes.data
        self.array = self._buffer.memory[start : start + size].view(dtype)

    def __del__(self) -> None:
        if self._buffers is not None and self._buffer is not None:
            self._buffers.give(self._buffer)
