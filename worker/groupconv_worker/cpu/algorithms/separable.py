"""Rank-1 kernels: w = u·vᵀ runs as a column pass and a row pass, K + L multiply-adds an output instead of K·L."""

import math

import numpy as np

from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.algorithms.grouped import MAX_STEP, MAX_TAPS, PlaneKernel
from groupconv_worker.cpu.algorithms.plane import Plane, bias_of, filters_of, phases, zero_padded
from groupconv_worker.cpu.algorithms.samples import Samples
from groupconv_worker.cpu.program import Program
from groupconv_worker.cpu.stages import Scratch, X, Y
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.taps import padding_dominates

FEWEST_TAPS = 25
"""Below, one pass over the map costs less than two."""


class Separable:
    """Takes float32 and float64, two axes, one input channel per group, if the weights are of rank 1.

    Args:
        team: the threads.
        buffers: scratch memory.
        tolerance: how far a weight may be from u·vᵀ, relative to itself; 0 stands for its own rounding.
    """

    name = "separable"

    def __init__(self, team: Team, buffers: BufferPool, tolerance: float = 0.0) -> None:
        self.team, self.buffers, self.tolerance = team, buffers, tolerance

    def supports(self, problem: Problem) -> bool:
        """Depthwise with a kernel large enough that two passes pay."""
        g = zero_padded(problem.geometry)
        return (
            g.in_channels == g.groups
            and math.prod(g.kernel) >= FEWEST_TAPS
            and problem.types.accumulate.kind == "f"
            and not g.exact
            and g.rank == 2
            and not g.transposed
            and min(g.kernel) > 1
            and max(g.kernel) <= MAX_TAPS
            and max(*g.stride, *g.dilation) <= MAX_STEP
            and max(g.input) < 2**30
            and not padding_dominates(problem.geometry)
        )

    def accepts(self, problem: Problem, weight: Array) -> bool:
        """Whether every filter is of rank 1."""
        return self._factors(problem, weight) is not None

    def _factors(self, problem: Problem, weight: Array) -> tuple[Array, Array] | None:
        w = filters_of(weight, zero_padded(problem.geometry), problem.types.accumulate)[:, 0]
        if len(w) > 1 and rank_one(w[:1], self.tolerance) is None:  # most kernels are not, so the first one tells
            return None
        return rank_one(w, self.tolerance)

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:  # noqa: ARG002
        """Factor the weights.

        Raises:
            ValueError: they are not of rank 1 (`accepts`).
        """
        g = zero_padded(problem.geometry)
        dtype = problem.types.accumulate
        factors = self._factors(problem, weight)
        if factors is None:
            msg = "the filters are not of rank 1"
            raise ValueError(msg)
        activated = g.activation is None or g.activation.kind == "relu"
        relu = int(g.activation is not None and activated)
        kernel = _Separable(self, phases(g)[0].plane, factors, bias_of(bias, g, dtype), relu)
        return Samples(problem, kernel, activated=activated)


class _Separable:
    algorithm = "separable"

    def __init__(
        self, separable: Separable, plane: Plane, factors: tuple[Array, Array], bias: Array, relu: int
    ) -> None:
        columns, rows = (np.ascontiguousarray(f).reshape(-1) for f in factors)
        inner = (plane.output[0], plane.input[1])
        channels = plane.groups * plane.filters
        (K, L), (s, t), (d, e), (top, left) = plane.kernel, plane.stride, plane.dilation, plane.low
        first = Plane(plane.groups, 1, plane.filters, plane.input, (K, 1), (s, 1), (d, 1), (top, 0), inner)
        second = Plane(channels, 1, 1, inner, (1, L), (1, t), (1, e), (0, left), plane.output)
        scratch = Scratch()
        between = scratch.room(channels * math.prod(inner), bias.dtype)
        stages = (
            PlaneKernel(first, bias.dtype).stage(X, columns, np.zeros_like(bias), between, 0),
            PlaneKernel(second, bias.dtype).stage(between, rows, bias, Y, relu),
        )
        self.program = Program(separable.team, separable.buffers, stages, scratch)

    @property
    def nbytes(self) -> int:
        return self.program.nbytes  # the factors are among its arrays

    def run(self, x: Array, y: Array) -> None:
        self.program.run(x, y)


def rank_one(w: Array, tolerance: float = 0.0) -> tuple[Array, Array] | None:
    """The factors u (M, K), v (M, L) with w = u·vᵀ, or None.

    A rank-1 matrix is its largest column times its largest row over their common element. Rounding each element
    of an exact product puts it within 3/2 of a unit in the last place of that, so 2 units count as exact.

    Args:
        w: (M, K, L), float.
        tolerance: relative to each element; 0 for the rounding of w's dtype.

    Example:
        >>> u, v = rank_one(np.array([[[3.0, 6, 9], [4, 8, 12], [5, 10, 15]]]))
        >>> u[0].tolist(), (v[0] * 3).tolist()
        ([9.0, 12.0, 15.0], [1.0, 2.0, 3.0])
        >>> rank_one(np.eye(3)[None]) is None
        True
    """
    wide = w.astype(np.float64)
    M, _, L = w.shape
    peak = np.abs(wide).reshape(M, -1).argmax(axis=1)
    m, k, l = np.arange(M), peak // L, peak % L
    pivot = wide[m, k, l]
    if not np.isfinite(wide).all() or (pivot == 0).any():
        return None
    u, v = wide[m, :, l], wide[m, k] / pivot[:, None]
    allowed = (tolerance or 2 * float(np.finfo(w.dtype).eps)) * np.abs(wide)
    if (np.abs(u[:, :, None] * v[:, None] - wide) > allowed).any():
        return None
    return u.astype(w.dtype), v.astype(w.dtype)
