"""Depthwise convolution on the device, a few outputs to a thread: kernels/depthwise.cu."""

from typing import Any

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.algorithms.sliding import depthwise_takes, is_aligned, pack_taps, plan_launch
from groupconv_worker.cuda.device import Device


class Depthwise(DeviceKernel):
    """Two-dimensional convolutions of one channel per group, with the square kernels that networks use."""

    algorithm = "depthwise"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        super().__init__(device, problem, weight, bias)
        self.filters = device.upload(pack_taps(weight, self.geometry))

    @classmethod
    def supports(cls, problem: Problem) -> bool:
        """Floats of up to 32 bits; kernels of 3, 5 and 7 at strides 1 and 2, undilated, padded with zeros."""
        return depthwise_takes(problem.geometry, problem.types.accumulate)

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # it needs no workspace
        batch, groups = x.shape[:2]
        aligned = is_aligned(x, y)
        launch = plan_launch(self.geometry, batch, groups, 1, self.device.multiprocessors, aligned=aligned)
        self.device.kernels.launch(
            "depthwise.cu",
            instances.depthwise(self.types.input, *launch.shape),
            launch.blocks,
            launch.threads,
            (x, self.filters[first_group * self.outputs :], self.epilogue_of(first_group), y, launch.argument),
        )
