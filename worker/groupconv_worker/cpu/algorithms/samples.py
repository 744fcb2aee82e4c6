"""Samples for the CPU's algorithms: contiguous, in the accumulator's dtype, in buffers that are kept."""

from typing import Any, Protocol

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.pieces import apply, copy, pad

NATIVE = tuple(np.dtype(name) for name in ("float32", "float64", "int32"))
"""The dtypes that accumulate."""
FEW = 256 * 2**10
"""Bytes of samples that are cast, padded and activated at a time."""
ALIGNED = ("fft", "onnxruntime")
"""Kernels that read aligned elements only. Compiled ones load from any address, as elements lie in many messages."""
PAD_MODE: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Sampled(Protocol):
    """A kernel for contiguous samples of the accumulator's dtype."""

    algorithm: str

    @property
    def nbytes(self) -> int:
        """As of `Prepared`."""

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
        self.aligned = kernel.algorithm in ALIGNED

    @property
    def nbytes(self) -> int:
        """As of `Prepared`."""
        return self.kernel.nbytes

    def run(self, x: Array, out: Array) -> None:
        """As `Prepared.run`."""
        g, dtype = self.problem.geometry, self.problem.types.accumulate
        zeros, plain = g.padding_mode == "zeros", _is_plain(out, dtype)
        if zeros and plain and self.activation is None and _is_plain(x, dtype, aligned=self.aligned):
            self.kernel.run(x, out)
            return
        few = max(1, FEW // max(1, x[:1].nbytes + out[:1].nbytes))
        for n in range(0, x.shape[0], few):  # what else is done to samples finds them in the caches
            sample, place = x[n : n + few], out[n : n + few]
            if not zeros:
                sample = pad(sample, g.padding, PAD_MODE[g.padding_mode])
            if not _is_plain(sample, dtype, aligned=self.aligned):
                sample = copy(sample, np.empty(sample.shape, dtype))
            y = place if plain else np.empty(place.shape, dtype)
            self.kernel.run(sample, y)
            apply(y, self.activation)
            if not plain:
                copy(y, place)


def _is_plain(x: Array, dtype: np.dtype, *, aligned: bool = True) -> bool:
    """Whether a kernel can use the samples as they lie."""
    return x.dtype == dtype and (x.flags.aligned or not aligned) and x[:1].flags.c_contiguous
