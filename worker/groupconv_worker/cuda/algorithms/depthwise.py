"""Depthwise convolution on the device, a few outputs to a thread: kernels/depthwise.cu."""

from typing import Any

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.sliding import ALIGNMENT, depthwise_takes, pack_taps, plan_launch
from groupconv_worker.cuda.device import Device, Epilogue, device_types
from groupconv_worker.cuda.kernel import DeviceKernel


class Depthwise:
    """Two-dimensional convolutions of one channel per group, with the squares that networks use.

    Args:
        device: where.
    """

    name = "depthwise"

    def __init__(self, device: Device) -> None:
        self._device = device

    def supports(self, problem: Problem) -> bool:
        """Floats of up to 32 bits; kernels of 3, 5 and 7 at strides 1 and 2, undilated, padded by zeros."""
        return depthwise_takes(problem.geometry, problem.types.accumulate)

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """Pack the filters in float32, each in whole vectors."""
        return _Depthwise(self._device, problem, weight, bias)


class _Depthwise:
    algorithm = "depthwise"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        self._device, self._geometry = device, problem.geometry
        types = device_types(problem.types)
        self._input = types.input
        self._filters = device.upload(pack_taps(weight, problem.geometry))
        self._epilogue = Epilogue(device, problem.geometry, bias, types.accumulate)

    @property
    def nbytes(self) -> int:
        """As of `DeviceKernel`."""
        return int(self._filters.nbytes) + self._epilogue.nbytes

    def workspace(self, batch: int, groups: int) -> int:  # noqa: ARG002 - none, whatever the size
        return 0

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # noqa: ARG002
        g = self._geometry
        aligned = not (x.data.ptr % ALIGNMENT or y.data.ptr % ALIGNMENT)
        launch = plan_launch(g, x.shape[0], x.shape[1], 1, self._device.multiprocessors, aligned=aligned)
        first = first_group * (g.out_channels // g.groups)
        self._device.kernels.launch(
            "depthwise.cu",
            instances.depthwise(self._input, *launch.shape),
            launch.blocks,
            launch.threads,
            (x, self._filters[first:], self._epilogue.record(first), y, launch.record),
        )
