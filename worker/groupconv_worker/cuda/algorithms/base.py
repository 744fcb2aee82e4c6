"""The base of the cuda engine's algorithms: weights on the device, an epilogue, and a launch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.device import Device, device_types, storage
from groupconv_worker.cuda.epilogue import Epilogue


class UnsupportedProblemError(Exception):
    """An algorithm that `supports` a problem cannot take it: its weights do not allow it, or its library refuses."""


class DeviceKernel(ABC):
    """A convolution with its weights on the device, computed by one algorithm.

    A subclass is an algorithm. Its constructor sends the filters to the device in the layout that it wants, and stores
    them in `filters`; `launch` puts the work on the current stream.

    Args:
        device: where it runs; the current one.
        problem: shapes and dtypes.
        weight: of `problem.geometry.weight_shape`.
        bias: (M,) or None.

    Attributes:
        algorithm: the name of the algorithm.
        by_library: cuBLAS or cuDNN multiplies. They may round float32 as the geometry's `math` allows, and two runs may
            differ in their last bits.
        sums_products: each output is a sum of its own products, so that small integers in floats are summed exactly.
        transforms: plans of cuFFT run. A captured graph has to keep them.
        channels_last: whether `launch` takes maps whose channels are the last axis in memory.
        geometry, types: of the problem, with dtypes as `device_types` gives them.
        channels, outputs: input and output channels of a group.
        filters: on the device.

    Raises:
        UnsupportedProblemError: the weights or a library do not allow it.
    """

    algorithm: ClassVar[str]
    by_library: ClassVar[bool] = False
    sums_products: ClassVar[bool] = True
    transforms: ClassVar[bool] = False
    channels_last: bool = False

    filters: Any

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        g = problem.geometry
        self.device, self.geometry, self.types = device, g, device_types(problem.types)
        self.channels, self.outputs = g.in_channels // g.groups, g.out_channels // g.groups
        self.epilogue = Epilogue(device, g, bias, self.types.accumulate)

    @classmethod
    def available(cls, device: Device) -> bool:  # noqa: ARG003 - most need no library
        """Whether the libraries that it needs are installed."""
        return True

    @classmethod
    @abstractmethod
    def supports(cls, problem: Problem) -> bool:
        """Whether it takes a problem of these shapes and dtypes."""

    @classmethod
    def traits(cls, problem: Problem, weight: Array, bias: Array | None) -> str:  # noqa: ARG003 - most look at none
        """What of the values decides whether it takes them, or which variants it has; "" if nothing does."""
        return ""

    @abstractmethod
    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        """Put the work on the current stream, for some of the groups.

        Args:
            x: (n, groups · C/g, *input), contiguous, on the device, of `types.input`. Its channels may be the last axis
                in memory where `channels_last` says so.
            y: (n, groups · M/g, *output), of the same kind; every element is written.
            first_group: the group of the convolution that x begins with.
            budget: bytes of workspace to stay under, if that is not less than `workspace` returns.
        """

    def run(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        """`launch`, after converting an x of integers where floats are computed."""
        self.launch(x.astype(storage(self.types.input), copy=False), y, first_group, budget)

    def workspace(self, batch: int, groups: int) -> int:  # most need none
        """The least bytes that `launch` allocates for so many samples and groups."""
        return 0

    def tune(self, measure: Callable[[], float]) -> float:
        """Milliseconds of a run. An algorithm with variants tries them first and keeps the fastest.

        Args:
            measure: times a run of this kernel as it is now.
        """
        return measure()

    def variant(self) -> str:
        """Which of its variants it runs, in words that `take` understands; "" if it has none."""
        return ""

    def take(self, variant: str) -> None:  # noqa: B027 - most have none
        """Run the variant that was the fastest when `tune` measured a kernel of the same problem.

        Raises:
            UnsupportedProblemError: there is no such variant.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that it keeps: filters, bias, slopes, tables."""
        return int(self.filters.nbytes) + self.epilogue.nbytes

    def upload(self, filters: Array) -> Any:
        """Filters on the device, in the dtype that kernels read."""
        return self.device.upload(filters.astype(self.types.weight, copy=False))

    def groups_in(self, x: Any) -> int:
        """Groups of an input of `launch`."""
        return int(x.shape[1]) // self.channels

    def epilogue_of(self, first_group: int) -> Array:
        """The epilogue's kernel argument for the outputs from a group on."""
        return self.epilogue.argument(first_group * self.outputs)

    def finish(self, y: Any, first_group: int) -> None:
        """Apply bias and activation in place to y (n, groups · M/g, *output), after a library has computed it."""
        if self.epilogue.is_identity:
            return
        if not y.flags.c_contiguous:
            self._finish_channels_last(y, first_group)
            return
        plane = math.prod(self.geometry.output)
        vector = 4 if plane % 4 == 0 else 1
        self.device.kernels.launch(
            "finish.cu",
            instances.finish_in_place(self.types.output, vector),
            y.size // plane * -(-plane // vector // 256),
            256,
            (y, self.epilogue_of(first_group), np.int64(plane), np.int32(y.shape[1])),
        )

    def _finish_channels_last(self, y: Any, first_group: int) -> None:
        """`finish` for a y whose channels are the last axis in memory."""
        channels = y.shape[1]
        vector = 4 if channels % 4 == 0 else 1
        self.device.kernels.launch(
            "finish.cu",
            instances.finish_channels_last(self.types.output, vector),
            -(-y.size // vector // 256),
            256,
            (y, self.epilogue_of(first_group), np.int64(y.size), np.int32(channels)),
        )
