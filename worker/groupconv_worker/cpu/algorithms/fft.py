"""FFT: large kernels on large maps, by overlap-save over tiles, each held to the error bound of a direct sum.

A correlation is a product of spectra: y = F⁻¹(conj(F w) · F x). Of a circular one of length n the first n - K + 1
outputs per axis wrapped nothing, so tiles of that many outputs are cut from the map; their inputs overlap by K - 1.

The error of a transform is normwise: at every output of a tile it is at most about u·log₂(n)·‖w‖₂·‖x of the tile‖₂
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 24.2). A direct sum promises
terms·ε·(|x| ∗ |w|) at each output instead. So spectra have a wider dtype (float64 for float32), and a tile is
transformed only if its error is below that promise at each of its outputs; else it is summed, tap by tap. A lower bound
of |x| ∗ |w| comes from sums of |x| over blocks that lie within a window wherever it begins. NaN and infinity never
pass, so they stay in the windows that see them.

Source: Oppenheim and Schafer, Discrete-Time Signal Processing, 3rd ed., section 8.7.3.
"""

import itertools
import math
from typing import Any

import numpy as np

from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.algorithms.plane import Plane, bias_of, filters_of, phases, zero_padded
from groupconv_worker.cpu.algorithms.samples import Samples
from groupconv_worker.cpu.threads import Team
from groupconv_worker.job import current
from groupconv_worker.taps import padding_dominates

WIDER: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float32): np.dtype(np.float64),
    np.dtype(np.float64): np.dtype(np.longdouble),
}
"""The dtype of the spectra."""
FEWEST_TAPS = {np.dtype(np.float32): 121, np.dtype(np.float64): 625}
"""Below, direct convolution costs less."""
TILE = 256
"""Cells of a tile's input per axis, unless the kernel is large: its spectra fit the second cache."""
KERNELS = 4
"""The tile of a large kernel is so many times as large as the kernel: a quarter of it overlaps the next tile."""
BLOCKS = 4
"""Blocks of |x| across a kernel, about."""


class Fft:
    """Takes float32 and float64, two axes, stride and dilation 1, kernels of many taps.

    Args:
        team: the threads.
    """

    name = "fft"

    def __init__(self, team: Team) -> None:
        self.team = team

    def supports(self, problem: Problem) -> bool:
        """Many taps, and groups so thin that the transforms of a channel serve few filters anyway."""
        g, dtype = zero_padded(problem.geometry), problem.types.accumulate
        return (
            dtype in WIDER
            and math.prod(g.kernel) >= FEWEST_TAPS[dtype]
            and unit_of(WIDER[dtype]) < unit_of(dtype)  # not every processor has a wider one
            and g.rank == 2
            and not g.transposed
            and max(*g.stride, *g.dilation) == 1
            and math.prod(g.output) >= math.prod(g.kernel)
            and g.in_channels * g.out_channels // g.groups**2 <= 4
            and not padding_dominates(problem.geometry)
            and not g.exact
        )

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """Transform the filters; a resident kernel keeps a copy of them as well."""
        g = zero_padded(problem.geometry)
        w = filters_of(weight, g, problem.types.accumulate)
        if resident and np.may_share_memory(w, weight):
            w = w.copy()
        return Samples(problem, _Fft(self.team, phases(g)[0].plane, w, bias_of(bias, g, w.dtype)), activated=False)


class _Fft:
    algorithm = "fft"

    def __init__(self, team: Team, plane: Plane, w: Array, bias: Array) -> None:
        from scipy import fft  # it takes long to import, and few kernels are as large

        self.team, self.plane, self._fft = team, plane, fft
        self.bias = bias.reshape(plane.groups, plane.filters, 1, 1)
        self.w = w.reshape(plane.groups, plane.filters, plane.channels, *plane.kernel)
        lengths = [
            fft.next_fast_len(min(o + k - 1, max(TILE, KERNELS * k)), real=True)
            for o, k in zip(plane.output, plane.kernel, strict=True)
        ]
        self.shape = (lengths[0], lengths[1])
        self.step = (lengths[0] - plane.kernel[0] + 1, lengths[1] - plane.kernel[1] + 1)
        with np.errstate(all="ignore"):
            for group, filters in enumerate(self.w):
                current().check()
                spectrum = fft.rfft2(filters.astype(WIDER[w.dtype]), self.shape).conj()
                if group == 0:
                    self.spectra = np.empty((len(self.w), *spectrum.shape), spectrum.dtype)
                self.spectra[group] = spectrum
            self.promise = Promise(self.w, self.shape)

    @property
    def nbytes(self) -> int:
        return int(self.spectra.nbytes) + self.bias.nbytes + self.w.nbytes

    def run(self, x: Array, y: Array) -> None:
        plane, step = self.plane, self.step
        starts = list(itertools.product(range(0, plane.output[0], step[0]), range(0, plane.output[1], step[1])))
        # each sample is contiguous; from one to the next there may be a gap, so all together have no such view
        grouped = [sample.reshape(plane.groups, plane.channels, *plane.input) for sample in x]
        answers = [sample.reshape(plane.groups, plane.filters, *plane.output) for sample in y]

        @np.errstate(all="ignore")  # NaN and infinity are data, and each thread has its own state
        def work(first: int, last: int) -> None:
            for task in range(first, last):
                current().check()
                number, tile = divmod(task, len(starts))
                sample, group = divmod(number, plane.groups)
                self._tile(group, grouped[sample][group], answers[sample][group], starts[tile])

        self.team.run(work, len(x) * plane.groups * len(starts))

    def _tile(self, group: int, x: Array, y: Array, start: tuple[int, int]) -> None:
        """The outputs from `start` on of one group: x (C/g, H, W) -> y (M/g, H', W')."""
        plane = self.plane
        tile = np.zeros((plane.channels, *self.promise.room), x.dtype)
        axes = zip(start, plane.low, self.shape, plane.input, strict=True)
        into, taken = zip(*(overlap(first - low, extent, have) for first, low, extent, have in axes), strict=True)
        tile[:, *into] = x[:, *taken]
        rows, columns = (slice(s, s + n) for s, n in zip(start, self.step, strict=True))
        outputs = y[:, rows, columns]
        if self.promise.holds(group, tile, outputs.shape[1:]):
            seen = self._fft.rfft2(
                tile[:, : self.shape[0], : self.shape[1]].astype(WIDER[x.dtype])
            )  # (C/g, rows, columns/2 + 1)
            for m, spectrum in enumerate(self.spectra[group]):
                current().check()
                answer = self._fft.irfft2((spectrum * seen).sum(axis=0), self.shape)
                outputs[m] = answer[: outputs.shape[1], : outputs.shape[2]] + self.bias[group, m]
        else:
            for m, filters in enumerate(self.w[group]):
                outputs[m] = summed(tile, filters, outputs.shape[1:]) + self.bias[group, m]


class Promise:
    """Whether the transforms of a tile keep the error bound of a direct sum at each output.

    Args:
        w: filters (g, M/g, C/g, K, L).
        shape: of the transforms.

    Attributes:
        room: extents of a tile, at least `shape`: whole blocks.
    """

    def __init__(self, w: Array, shape: tuple[int, int]) -> None:
        kernel, size = w.shape[-2:], np.abs(w.astype(np.float64))
        self.block = (max(1, kernel[0] // BLOCKS), max(1, kernel[1] // BLOCKS))
        self.room = tuple(-(-n // b) * b for n, b in zip(shape, self.block, strict=True))
        self.least = math.prod(self.room) * float(np.finfo(w.dtype).smallest_normal)
        self.cells, self.sums = math.prod(shape), size.sum(axis=(-2, -1))  # (g, M/g, C/g)
        allowed = (math.prod(w.shape[2:]) + 2) * unit_of(w.dtype)
        # ‖w‖₂² ≤ ‖w‖₁·‖w‖∞, which neither overflows nor underflows
        norms = np.sqrt(self.sums) * np.sqrt(size.max(axis=(-2, -1)))
        self.noise = unit_of(WIDER[w.dtype]) * math.log2(self.cells) / allowed * norms
        # a block q behind that of a window's first cell lies on these taps, wherever in its block the window begins
        spans = [
            [(q, slice(q * b - b + 1, q * b + b)) for q in range(b > 1, k // b)]
            for k, b in zip(kernel, self.block, strict=True)
        ]
        taps = [((p, q), size[..., i, j].min(axis=(-2, -1))) for (p, i), (q, j) in itertools.product(*spans)]
        self.taps = [(where, least) for where, least in taps if least.any()]
        self.all_taps = sum((least for _, least in self.taps), np.zeros(self.sums.shape))

    def holds(self, group: int, tile: Array, outputs: tuple[int, ...]) -> bool:
        """For so many outputs of the tile (C/g, *room), the first ones of each axis."""
        (a, b), (rows, columns) = self.block, self.room
        # one row of a block is enough for a lower bound; all of them would cost a tenth of the transforms
        lines = np.abs(tile[:, a // 2 :: a])
        blocks = np.zeros((len(tile), rows // a, columns // b))
        for column in range(b):
            blocks += lines[:, :, column::b]
        # ‖x‖₂², where squares that underflow count as the least number that does not
        squares = np.array([np.dot(c, c) for c in tile.reshape(len(tile), -1)], np.float64) + self.least
        noise = (self.noise[group] * np.sqrt(squares)).sum(axis=1)  # (M/g)
        reach = (self.sums[group] * np.sqrt(squares)).sum(axis=1) * float(self.cells) ** 2
        if not np.isfinite(noise + reach).all():
            return False  # or the transforms may overflow
        if ((self.all_taps[group] * blocks.min(axis=(1, 2))).sum(axis=1) >= noise).all():
            return True  # as most tiles that see no padding
        rows, columns = (-(-n // b) for n, b in zip(outputs, self.block, strict=True))
        least = np.zeros((len(noise), rows, columns))
        for (p, q), weights in self.taps:
            seen = blocks[:, p : p + rows, q : q + columns]
            for m, c in np.ndindex(*weights[group].shape):
                least[m] += weights[group, m, c] * seen[c]
        return bool((least.min(axis=(1, 2)) >= noise).all()) or not tile.any()


def summed(tile: Array, filters: Array, outputs: tuple[int, ...]) -> Array:
    """The sums themselves: tile (C, rows, columns) and filters (C, K, L) -> outputs (rows, columns)."""
    rows, columns = outputs
    total, term = np.zeros((2, rows, columns), tile.dtype)
    for c, k, l in np.ndindex(*filters.shape):
        current().check()
        np.multiply(tile[c, k : k + rows, l : l + columns], filters[c, k, l], out=term)
        total += term
    return total


def unit_of(dtype: np.dtype[Any]) -> float:
    """The unit roundoff of a dtype.

    Example:
        >>> unit_of(np.dtype(np.float32)) == 2.0**-24
        True
    """
    return float(np.finfo(dtype).eps) / 2


def overlap(first: int, extent: int, have: int) -> tuple[slice, slice]:
    """Cells first … first + extent - 1 of an axis of `have` cells: where they go, and which there are.

    Example:
        >>> overlap(-2, 8, 4)
        (slice(2, 6, None), slice(0, 4, None))
    """
    begin, end = max(first, 0), max(min(first + extent, have), first, 0)
    return slice(begin - first, end - first), slice(begin, end)
