"""Convolution by 3 × 3 kernels on the device, a few outputs of four filters to a thread: kernels/stencil.cu."""

from typing import Any

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.algorithms.grouping import pack_grouped
from groupconv_worker.cuda.algorithms.sliding import FILTERS, is_aligned, plan_launch, stencil_takes
from groupconv_worker.cuda.device import Device


class Stencil(DeviceKernel):
    """Two-dimensional 3 × 3 convolutions of any groups; it is made for those with few channels."""

    algorithm = "stencil"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        super().__init__(device, problem, weight, bias)
        self.filters = device.upload(pack_grouped(weight, self.geometry, FILTERS).astype(np.float32, copy=False))

    @classmethod
    def supports(cls, problem: Problem) -> bool:
        """Floats of up to 32 bits; strides 1 and 2, undilated, padded with zeros, more than one filter to a group."""
        return stencil_takes(problem.geometry, problem.types.accumulate)

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # it needs no workspace
        launch = plan_launch(
            self.geometry,
            x.shape[0],
            self.groups_in(x),
            FILTERS,
            self.device.multiprocessors,
            aligned=is_aligned(x, y),
            split=not self.device.options.deterministic,
        )
        self.device.kernels.launch(
            "stencil.cu",
            instances.stencil(self.types.input, *launch.shape),
            launch.blocks,
            launch.threads,
            (x, self.filters[first_group:], self.epilogue_of(first_group), y, launch.argument),
            launch.shared,
        )
