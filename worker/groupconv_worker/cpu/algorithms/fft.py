"""FFT: large kernels on large maps, by overlap-save over bands of rows.

A correlation is a product of spectra: y = F⁻¹(conj(F w) · F x). Of a circular one of length n the first n - K + 1
outputs per axis wrapped nothing, so bands of that many rows are cut from the input, overlapping by K - 1.

The error is normwise: about ε·log₂(n)·‖w‖₂·‖x of the band‖₂ at every output, where a direct sum has its own scale.
One NaN or infinity would spread over its whole band, so a result that is not finite is computed again, directly.

Source: Oppenheim and Schafer, Discrete-Time Signal Processing, 3rd ed., section 8.7.3.
"""

import math
from dataclasses import replace

import numpy as np
import scipy.fft

from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.algorithms.direct import Direct
from groupconv_worker.cpu.algorithms.plane import Plane, filters_of, phases
from groupconv_worker.cpu.algorithms.samples import Samples, bias_of, zero_padded
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import Buffers
from groupconv_worker.taps import stretched

FEWEST_TAPS = 121
"""Below, direct convolution costs less."""
BAND_CELLS = 1 << 20
"""Cells of a band, about: its spectra are 8 MiB per channel in float32."""


class Fft:
    """Takes float32 and float64, two axes, stride and dilation 1, kernels of many taps.

    Args:
        team: the threads.
        buffers: scratch memory of the direct algorithm that stands in for results that are not finite.
    """

    name = "fft"

    def __init__(self, team: Team, buffers: Buffers) -> None:
        self.team, self.direct = team, Direct(team, buffers)

    def supports(self, problem: Problem) -> bool:
        """Many taps, and groups so thin that the transforms of a channel serve few filters anyway."""
        g = zero_padded(problem.geometry)
        return (
            problem.types.accumulate.kind == "f"
            and g.rank == 2
            and not g.transposed
            and max(*g.stride, *g.dilation) == 1
            and math.prod(g.kernel) >= FEWEST_TAPS
            and math.prod(g.output) >= math.prod(g.kernel)
            and g.in_channels * g.out_channels // g.groups**2 <= 4
            and not stretched(problem.geometry)
        )

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """Transform the filters."""
        g = zero_padded(problem.geometry)
        w = filters_of(weight, g, problem.types.accumulate)
        plain = Problem(replace(g, activation=None), problem.types)  # Samples applies the activation, once
        direct = self.direct.prepare(plain, weight, bias, resident=resident)
        kernel = _Fft(self.team, phases(g)[0].plane, w, bias_of(bias, g, w.dtype), direct)
        return Samples(problem, kernel, activated=False)


class _Fft:
    algorithm = "fft"

    def __init__(self, team: Team, plane: Plane, w: Array, bias: Array, direct: Prepared) -> None:
        self.team, self.plane, self.direct = team, plane, direct
        self.bias = bias.reshape(plane.groups, plane.filters, 1, 1)
        columns = scipy.fft.next_fast_len(plane.output[1] + plane.kernel[1] - 1, real=True)
        rows = min(plane.output[0], max(plane.kernel[0], BAND_CELLS // columns)) + plane.kernel[0] - 1
        self.shape = (scipy.fft.next_fast_len(rows, real=True), columns)
        spectra = scipy.fft.rfft2(w, self.shape).conj()
        self.spectra = spectra.reshape(plane.groups, plane.filters, plane.channels, *spectra.shape[2:])

    @property
    def nbytes(self) -> int:
        return int(self.spectra.nbytes) + self.bias.nbytes + self.direct.nbytes

    def run(self, x: Array, y: Array) -> None:
        for sample, made in zip(x, y, strict=True):
            self._sample(sample, made)

    def _sample(self, x: Array, y: Array) -> None:
        plane = self.plane
        grouped = x.reshape(plane.groups, plane.channels, *plane.input)
        answers = y.reshape(plane.groups, plane.filters, *plane.output)
        height = self.shape[0] - plane.kernel[0] + 1
        bands = -(-plane.output[0] // height)

        @np.errstate(all="ignore")  # NaN and infinity are data, and each thread has its own state
        def work(first: int, last: int) -> None:
            for task in range(first, last):
                group, band = divmod(task, bands)
                self._band(grouped[group], answers[group], self.spectra[group], band * height, height)
                answers[group, :, band * height : (band + 1) * height] += self.bias[group]

        self.team.run(work, plane.groups * bands)
        if not np.isfinite(y).all():
            self.direct.run(x[None], y[None])

    def _band(self, x: Array, y: Array, spectra: Array, start: int, height: int) -> None:
        """Output rows start … start + height - 1 of one group: x (C/g, H, W) -> y (M/g, H', W')."""
        plane = self.plane
        band = np.zeros((x.shape[0], *self.shape), x.dtype)
        into, taken = zip(
            *(
                overlap(first, extent, have)
                for first, extent, have in zip(
                    (start - plane.low[0], -plane.low[1]), self.shape, plane.input, strict=True
                )
            ),
            strict=True,
        )
        band[:, *into] = x[:, *taken]
        seen = scipy.fft.rfft2(band)  # (C/g, rows, columns/2 + 1)
        rows = min(height, plane.output[0] - start)
        for m, spectrum in enumerate(spectra):
            product = (spectrum * seen).sum(axis=0)
            y[m, start : start + rows] = scipy.fft.irfft2(product, self.shape)[:rows, : plane.output[1]]


def overlap(first: int, extent: int, have: int) -> tuple[slice, slice]:
    """Cells first … first + extent - 1 of an axis of `have` cells: where they go, and which there are.

    Example:
        >>> overlap(-2, 8, 4)
        (slice(2, 6, None), slice(0, 4, None))
    """
    begin, end = max(first, 0), max(min(first + extent, have), first, 0)
    return slice(begin - first, end - first), slice(begin, end)
