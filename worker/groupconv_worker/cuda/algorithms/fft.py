"""Convolution by cuFFT, for kernels so large that their taps cost more than the transforms.

Correlation is a product with the conjugate (the convolution theorem), with c summed over the group:

    y[n, m] = irfftn( Σ_c rfftn(x)[n, c] · conj(rfftn(w)[m, c]) )

Transforms are as long as input and kernel together, so the circular result holds the linear one: output o is
at o·s - p, modulo the length. A stride takes every s-th of them. Source: Oppenheim and Schafer, Discrete-Time
Signal Processing, 3rd ed., section 8.7.
"""

import math
from typing import Any

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.arguments import CROP, three
from groupconv_worker.cuda.device import Device, Epilogue, device_types
from groupconv_worker.cuda.kernel import DeviceKernel


class CudaFft:
    """Convolutions of float32 and float64, not transposed, padded with zeros.

    Args:
        device: where.
    """

    name = "fft"

    def __init__(self, device: Device) -> None:
        self._device = device

    def supports(self, problem: Problem) -> bool:
        """float32 or float64, plain, zeros around: other paddings would cost a padded copy of the input."""
        g, types = problem.geometry, device_types(problem.types)
        if g.transposed or types.input.kind != "f" or types.input.itemsize < 4:
            return False
        return g.padding_mode == "zeros" and max(transform_shape(g)) < 2**31

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """The spectra of the filters."""
        return _Fft(self._device, problem, weight, bias)


class _Fft:
    algorithm = "fft"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        g = problem.geometry
        self._device, self._geometry = device, g
        self._types = device_types(problem.types)
        self._shape = transform_shape(g)
        self._axes = tuple(range(2, 2 + g.rank))
        w = np.flip(weight, self._axes) if g.flip_kernel else weight
        dilated = np.zeros((*w.shape[:2], *g.effective_kernel), dtype=self._types.weight)
        every_tap: Any = (..., *(slice(None, None, d) for d in g.dilation))
        dilated[every_tap] = w
        self._spectra = self._rfftn(device.upload(dilated))  # (M, C/g, *frequencies)
        self._epilogue = Epilogue(device, g, bias, self._types.accumulate)
        self._frequencies = math.prod(self._shape[:-1]) * (self._shape[-1] // 2 + 1)

    @property
    def nbytes(self) -> int:
        """As of `DeviceKernel`."""
        return int(self._spectra.nbytes) + self._epilogue.nbytes

    def workspace(self, batch: int, groups: int) -> int:  # noqa: ARG002 - one sample and group at a time will do
        return self._group_bytes()

    def _group_bytes(self) -> int:
        """Spectra and results of one group of one sample, twice: cuFFT's own workspace is about as much again."""
        g = self._geometry
        channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
        complex_bytes = 2 * self._types.accumulate.itemsize
        return 2 * (channels + 2 * filters) * self._frequencies * complex_bytes

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        g = self._geometry
        n, channels, filters = x.shape[0], g.in_channels // g.groups, g.out_channels // g.groups
        groups = x.shape[1] // channels
        some_groups = max(1, min(groups, budget // self._group_bytes()))
        samples = max(1, min(n, budget // (self._group_bytes() * groups))) if some_groups == groups else 1
        for n0 in range(0, n, samples):
            for first in range(0, groups, some_groups):
                last = min(first + some_groups, groups)
                self._part(
                    x[n0 : n0 + samples, first * channels : last * channels],
                    y[n0 : n0 + samples, first * filters : last * filters],
                    first_group + first,
                    groups * filters * math.prod(g.output),
                )

    def _part(self, x: Any, y: Any, first_group: int, y_batch: int) -> None:
        g, cupy = self._geometry, self._device.cupy
        channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
        groups = x.shape[1] // channels
        spectra = self._rfftn(x)  # (n, groups·C/g, *frequencies)
        products = cupy.empty((*y.shape[:2], *spectra.shape[2:]), spectra.dtype)
        some = 4 if filters > 1 else 1
        tiles = -(-self._frequencies // 256)
        self._device.kernels.launch(
            "spectral.cu",
            instances.spectral(self._types.accumulate, some),
            tiles * -(-filters // some) * groups * x.shape[0],
            256,
            (
                spectra,
                self._spectra[first_group * filters : (first_group + groups) * filters],
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
        self._device.kernels.launch(
            "finish.cu",
            instances.crop(self._types.accumulate),
            -(-math.prod(g.output) // 256) * y.shape[0] * y.shape[1],
            256,
            (padded, self._epilogue.record(first_group * filters), y, crop),
        )

    def _rfftn(self, x: Any) -> Any:
        """Spectra of the last axes, contiguous: CuPy gives other strides where x is a single row."""
        cupy = self._device.cupy
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
