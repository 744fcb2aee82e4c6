"""Convolutions one after another on the device, of which only the first input and the last output may be elsewhere."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from groupconv_worker.contract import Problem
from groupconv_worker.cuda.chunks import Maps, maps_of
from groupconv_worker.cuda.device import Device, storage


class Kernel(Protocol):
    """A kernel, or a chain of several, as runs and captured graphs use it; see `DeviceKernel`."""

    @property
    def algorithm(self) -> str:
        """Its name."""

    @property
    def transforms(self) -> bool:
        """Whether plans of cuFFT run, which a captured graph has to keep."""

    @property
    def channels_last(self) -> bool:
        """Whether `run` takes maps whose channels are the last axis in memory."""

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that it keeps."""

    def run(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        """Put the work on the current stream."""

    def workspace(self, batch: int, groups: int) -> int:
        """The least bytes that `run` allocates for so many samples and groups."""


class ChainedKernel(NamedTuple):
    """A convolution of a chain: its kernel, and its maps."""

    kernel: Kernel
    maps: Maps

    @classmethod
    def of(cls, kernel: Kernel, problem: Problem) -> Self:
        """A kernel for this problem."""
        return cls(kernel, maps_of(problem))


class KernelChain:
    """Kernels that follow one another. The maps between them lie in two buffers, which are used in turn.

    Between two kernels that both want channels last, a map lies in memory like that.

    Args:
        device: where.
        links: at least two. The output of each is the input of the next.
    """

    channels_last = False  # the maps at its two ends lie as callers' arrays do

    def __init__(self, device: Device, links: Sequence[ChainedKernel]) -> None:
        self._device, self._links = device, links
        self.algorithm = "+".join(link.kernel.algorithm for link in links)
        self.transforms = any(link.kernel.transforms for link in links)
        between = [math.prod(m.shapes(1, m.groups)[1]) * m.y_dtype.itemsize for _, m in links[:-1]]
        self._buffers = max(between[::2]), max(between[1::2], default=0)  # bytes for one sample

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that all of them keep."""
        return sum(link.kernel.nbytes for link in self._links)

    def workspace(self, batch: int, groups: int) -> int:  # noqa: ARG002 - a chain is not cut along groups
        """The least bytes that `run` allocates for so many samples."""
        least = max(link.kernel.workspace(batch, link.maps.groups) for link in self._links)
        return least + batch * sum(self._buffers)

    def run(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # noqa: ARG002 - it has all groups
        """Put the work on the current stream.

        Args:
            x: (n, C, *input) of the first convolution, contiguous, on the device.
            y: (n, M, *output) of the last.
            first_group: 0.
            budget: bytes of workspace for each kernel, beside the buffers.
        """
        samples = x.shape[0]
        buffers = [self._device.cupy.empty(samples * size, np.uint8) for size in self._buffers if size]
        for i, ((kernel, maps), (following, _)) in enumerate(pairwise(self._links)):
            shape, dtype = maps.shapes(samples, maps.groups)[1], storage(maps.y_dtype)
            between = buffers[i % 2][: math.prod(shape) * dtype.itemsize].view(dtype)
            if kernel.channels_last and following.channels_last:
                last = between.reshape((shape[0], *shape[2:], shape[1]))
                between = last.transpose((0, len(shape) - 1, *range(1, len(shape) - 1)))
            else:
                between = between.reshape(shape)
            kernel.run(x, between, 0, budget)
            x = between
        self._links[-1].kernel.run(x, y, 0, budget)
