"""What the CPU's algorithms share: one sample at a time, contiguous, in the accumulator's dtype; buffers kept."""

import threading
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import scipy.special

from groupconv.geometry import Geometry
from groupconv_worker.engines.base import Array, Problem
from groupconv_worker.epilogue import activate

NATIVE = tuple(np.dtype(name) for name in ("float32", "float64", "int32"))
"""The dtypes that accumulate."""
PAD_MODE: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Sampled(Protocol):
    """A kernel for one sample."""

    algorithm: str

    def sample(self, x: Array, y: Array) -> None:
        """Convolve x (C, *input) and add the bias into y (M, *output), both contiguous, of the accumulator's dtype."""


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
        for n in range(x.shape[0]):
            sample = x[n]
            if g.padding_mode != "zeros":
                sample = np.pad(sample, ((0, 0), *g.padding), mode=PAD_MODE[g.padding_mode])
            sample = np.require(sample, dtype, ("C", "A"))
            direct = out.dtype == dtype and out[n].flags.c_contiguous and out[n].flags.aligned
            y = out[n] if direct else np.empty(out.shape[1:], dtype)
            self.kernel.sample(sample, y)
            activate(y[None], self.activation, np, scipy.special.erf)
            if not direct:
                out[n] = y


def zero_padded(g: Geometry) -> Geometry:
    """`g` on an input that already has its padding, if that is no zeros; else `g`."""
    if g.padding_mode == "zeros":
        return g
    return replace(g, input=g.padded, padding=((0, 0),) * g.rank, padding_mode="zeros")


def bias_of(bias: Array | None, g: Geometry, dtype: np.dtype) -> Array:
    """The bias (M,) of `dtype`, zeros if there is none; a copy."""
    return np.zeros(g.out_channels, dtype) if bias is None else bias.astype(dtype)


class Buffers:
    """Scratch memory that is kept between runs: fresh memory costs a page fault for each 4 KiB.

    Example:
        >>> buffers = Buffers()
        >>> buffer, address = buffers.take(100)
        >>> address % 64, buffer.nbytes >= 100
        (0, True)
        >>> buffers.give(buffer)
    """

    LIMIT = 32 * 2**20
    """Bytes of a buffer that is kept; a larger one is let go."""

    KEPT = 8
    """Buffers that are kept."""

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> tuple[Array, int]:
        """Memory for `size` bytes, nobody else's until it is given back, and the address of its first cache line."""
        with self._lock:
            fitting = [i for i, buffer in enumerate(self._free) if buffer.nbytes >= size + 63]
            buffer = self._free.pop(min(fitting, key=lambda i: self._free[i].nbytes)) if fitting else None
        if buffer is None:
            buffer = np.empty(size + 63, np.uint8)
        address: int = buffer.__array_interface__["data"][0]
        return buffer, -(-address // 64) * 64

    def give(self, buffer: Array) -> None:
        """Give back what was taken."""
        if buffer.nbytes <= self.LIMIT:
            with self._lock:
                self._free.append(buffer)
                if len(self._free) > self.KEPT:
                    self._free.pop(min(range(len(self._free)), key=lambda i: self._free[i].nbytes))


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
        self._buffer, address = buffers.take(size)
        start = address - self._buffer.__array_interface__["data"][0]
        self.array = self._buffer[start : start + size].view(dtype)

    def __del__(self) -> None:
        if self._buffers is not None and self._buffer is not None:
            self._buffers.give(self._buffer)
