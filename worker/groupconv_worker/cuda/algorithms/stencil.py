"""Convolution by 3 × 3 kernels on the device, a few outputs of four filters to a thread: kernels/stencil.cu."""

from typing import Any

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.grouping import pack_grouped
from groupconv_worker.cuda.algorithms.sliding import ALIGNMENT, FILTERS, plan_launch, stencil_takes
from groupconv_worker.cuda.device import Device, Epilogue, device_types
from groupconv_worker.cuda.kernel import DeviceKernel


class Stencil:
    """Two-dimensional 3 × 3 convolutions of any groups; those with few channels are what it is for.

    Args:
        device: where.
    """

    name = "stencil"

    def __init__(self, device: Device) -> None:
        self._device = device

    def supports(self, problem: Problem) -> bool:
        """Floats of up to 32 bits; strides 1 and 2, undilated, padded by zeros, more than one filter to a group."""
        return stencil_takes(problem.geometry, problem.types.accumulate)

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """Pack the filters of a group side by side, in float32."""
        return _Stencil(self._device, problem, weight, bias)


class _Stencil:
    algorithm = "stencil"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        g = problem.geometry
        self._device, self._geometry = device, g
        types = device_types(problem.types)
        self._input = types.input
        self._filters = device.upload(pack_grouped(weight, g, FILTERS).astype(np.float32, copy=False))
        self._epilogue = Epilogue(device, g, bias, types.accumulate)

    @property
    def nbytes(self) -> int:
        """As of `DeviceKernel`."""
        return int(self._filters.nbytes) + self._epilogue.nbytes

    def workspace(self, batch: int, groups: int) -> int:  # noqa: ARG002 - none, whatever the size
        return 0

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # noqa: ARG002
        g = self._geometry
        groups = x.shape[1] // (g.in_channels // g.groups)
        aligned = not (x.data.ptr % ALIGNMENT or y.data.ptr % ALIGNMENT)
        split = not self._device.options.deterministic
        launch = plan_launch(g, x.shape[0], groups, FILTERS, self._device.multiprocessors, aligned=aligned, split=split)
        self._device.kernels.launch(
            "stencil.cu",
            instances.stencil(self._input, *launch.shape),
            launch.blocks,
            launch.threads,
            (
                x,
                self._filters[first_group:],
                self._epilogue.record(first_group * (g.out_channels // g.groups)),
                y,
                launch.record,
            ),
            launch.shared,
        )
