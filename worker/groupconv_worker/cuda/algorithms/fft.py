"""Convolution by cuFFT, for kernels so large that their taps cost more than the transforms.

Correlation is a product with the conjugate (the convolution theorem), with c summed over the group:

    y[n, m] = irfftn( Σ_c rfftn(x)[n, c] · conj(rfftn(w)[m, c]) )

Transforms are as long as input and kernel together, so the circular result contains the linear one: output o lies
at o·s - p, modulo the length. A stride takes every s-th of them. Source: Oppenheim and Schafer, Discrete-Time
Signal Processing, 3rd ed., section 8.7.
"""

import math
from typing import Any

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.arguments import CROP, three
from groupconv_worker.cuda.chunks import chunk_size, chunks
from groupconv_worker.cuda.device import Device, device_types


class Fft(DeviceKernel):
    """Convolutions of float32 and float64, not transposed, padded with zeros."""

    algorithm, sums_products, transforms = "fft", False, True

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        super().__init__(device, problem, weight, bias)
        g = self.geometry
        self._shape = transform_shape(g)
        self._frequencies = math.prod(self._shape[:-1]) * (self._shape[-1] // 2 + 1)
        self._axes = tuple(range(2, 2 + g.rank))
        w = np.flip(weight, self._axes) if g.flip_kernel else weight
        dilated = np.zeros((*w.shape[:2], *g.effective_kernel), dtype=self.types.weight)
        every_tap: Any = (..., *(slice(None, None, d) for d in g.dilation))
        dilated[every_tap] = w
        self.filters = self._rfftn(device.upload(dilated))  # (M, C/g, *frequencies)

    @classmethod
    def supports(cls, problem: Problem) -> bool:
        """float32 or float64, plain, padded with zeros. Other paddings would cost a padded copy of the input."""
        g, types = problem.geometry, device_types(problem.types)
        if g.transposed or types.input.kind != "f" or types.input.itemsize < 4:
            return False
        return g.padding_mode == "zeros" and max(transform_shape(g)) < 2**31

    def workspace(self, batch: int, groups: int) -> int:  # one sample and group at a time will do
        """Spectra and results of one group of one sample, twice: cuFFT's own workspace is about as large."""
        complex_bytes = 2 * self.types.accumulate.itemsize
        return 2 * (self.channels + 2 * self.outputs) * self._frequencies * complex_bytes

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        n, groups = x.shape[0], self.groups_in(x)
        y_batch = groups * self.outputs * math.prod(self.geometry.output)
        for chunk in chunks(n, groups, *chunk_size(n, groups, self.workspace(1, 1), budget)):
            first = first_group + chunk.groups.start
            self._part(x[chunk.channels(self.channels)], y[chunk.channels(self.outputs)], first, y_batch)

    def _part(self, x: Any, y: Any, first_group: int, y_batch: int) -> None:
        g, cupy, channels, filters = self.geometry, self.device.cupy, self.channels, self.outputs
        groups = self.groups_in(x)
        spectra = self._rfftn(x)  # (n, groups·C/g, *frequencies)
        products = cupy.empty((*y.shape[:2], *spectra.shape[2:]), spectra.dtype)
        some = 4 if filters > 1 else 1
        tiles = -(-self._frequencies // 256)
        self.device.kernels.launch(
            "spectral.cu",
            instances.spectral(self.types.accumulate, some),
            tiles * -(-filters // some) * groups * x.shape[0],
            256,
            (
                spectra,
                self.filters[first_group * filters : (first_group + groups) * filters],
                products,
                np.int64(self._frequencies),
                np.int32(groups),
                np.int32(channels),
                np.int32(filters),
            ),
        )
        # (n, groups·M/g, *shape), contiguous as in _rfftn
        padded = cupy.ascontiguousarray(cupy.fft.irfftn(products, s=self._shape, axes=self._axes))
        crop = np.zeros((), dtype=CROP)
        crop["y_batch"], crop["channels"] = y_batch, y.shape[1]
        crop["from"], crop["out"] = three(self._shape, 1), three(g.output, 1)
        crop["step"], crop["shift"] = three(g.stride, 1), three(tuple(-lo for lo, _ in g.padding), 0)
        self.device.kernels.launch(
            "finish.cu",
            instances.crop(self.types.accumulate),
            -(-math.prod(g.output) // 256) * y.shape[0] * y.shape[1],
            256,
            (padded, self.epilogue_of(first_group), y, crop),
        )

    def _rfftn(self, x: Any) -> Any:
        """Spectra of the last axes, contiguous: CuPy gives other strides where x is a single row."""
        cupy = self.device.cupy
        return cupy.ascontiguousarray(cupy.fft.rfftn(x, s=self._shape, axes=self._axes))


def transform_shape(g: Geometry) -> tuple[int, ...]:
    """Lengths at which no two outputs of the linear correlation fall together, and cuFFT is fast.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> transform_shape(resolve(ConvSpec(padding=15), (1, 1, 97, 1080), (1, 1, 31, 31)))
        (128, 1120)
    """
    least = (max(h + e - 1, sum(p) + h) for h, e, p in zip(g.input, g.effective_kernel, g.padding, strict=True))
    return tuple(fast_length(n) for n in least)


def fast_length(least: int) -> int:
    """The next even number without a prime factor above 7: cuFFT has kernels for these.

    Source: cuFFT documentation, "Accuracy and Performance".

    Example:
        >>> [fast_length(n) for n in (1, 127, 1110)]
        [2, 128, 1120]
    """
    length = least + least % 2
    while _rest(length) > 1:
        length += 2
    return length


def _rest(n: int) -> int:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n
