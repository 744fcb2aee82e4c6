"""Convolution by cuDNN, where nvidia-cudnn-frontend is installed.

16-bit tensors, and float32 that may be rounded, are passed channels last, as tensor cores want them. The way there and
back costs a pass over input and output, which the choice by measurement takes into account.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms.base import DeviceKernel, UnsupportedProblemError
from groupconv_worker.cuda.cudnn import DATA_TYPE, CudnnLibrary, CudnnPlan, two_or_more
from groupconv_worker.cuda.device import Device, device_types

log = logging.getLogger(__name__)

ALIGNMENT = 16
"""Bytes that an address has to be a multiple of, unless a tensor says otherwise. Source: cuDNN, graph API."""
TRIED = 16
"""Plans of a problem, in cuDNN's own order, that a resident kernel is measured with."""


class Cudnn(DeviceKernel):
    """Convolutions padded with zeros, of float32 and the 16-bit floats.

    Raises:
        UnsupportedProblemError: no engine of cuDNN takes the problem.
    """

    algorithm, by_library = "cudnn", True

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        assert device.cudnn is not None, "available() checks that it is there"
        super().__init__(device, problem, weight, bias)
        self._cudnn: CudnnLibrary = device.cudnn
        g = self.geometry
        self._plain = replace(g, activation=None, flip_kernel=False, exact=False)  # what cuDNN computes of it
        self._rounds = self._cudnn.rounds(Problem(g, self.types))
        try:
            self.plan(g.batch, g.groups)
        except self._cudnn.unsupported as refusal:
            raise UnsupportedProblemError(str(refusal)) from refusal
        w = np.flip(weight, tuple(range(2, weight.ndim))) if g.flip_kernel else weight
        w = w.reshape(*w.shape[:2], *two_or_more(g.kernel, 1))
        # the slice of a group is contiguous either way: channels last only moves the axes behind the first
        self.filters = self.upload(np.moveaxis(w, 1, -1) if self._rounds else w)

    @classmethod
    def available(cls, device: Device) -> bool:
        return device.cudnn is not None

    @classmethod
    def supports(cls, problem: Problem) -> bool:
        """By shape and dtype. What cuDNN itself refuses, the constructor finds out."""
        g = problem.geometry
        if str(device_types(problem.types).input) not in DATA_TYPE or g.padding_mode != "zeros":
            return False
        # cuDNN derives the input's extent from the gradient's; more output padding than the stride is outside that
        return not g.transposed or all(r < s for r, s in zip(g.output_padding, g.stride, strict=True))

    def workspace(self, batch: int, groups: int) -> int:
        """The plan's, and copies with channels last where they are made."""
        g = self.geometry
        moved = batch * groups * (self.channels * math.prod(g.input) + self.outputs * math.prod(g.output))
        return self.plan(batch, groups).workspace + moved * self.types.input.itemsize * self._rounds

    def plan(self, batch: int, groups: int) -> CudnnPlan:
        """The plan for so many samples and groups."""
        return self._cudnn.plan(self._part(batch, groups))

    def _part(self, batch: int, groups: int) -> Problem:
        """The problem of so many samples and groups."""
        channels, outputs = groups * self.channels, groups * self.outputs
        part = replace(self._plain, batch=batch, groups=groups, in_channels=channels, out_channels=outputs)
        return Problem(part, self.types)

    def tune(self, measure: Callable[[], float]) -> float:
        """Find the fastest of cuDNN's plans for the problem's batch, for all kernels of its shape."""
        problem = self._part(self.geometry.batch, self.geometry.groups)
        plan = self._cudnn.plan(problem)
        found = [(measure(), plan)]
        if plan.tuned:
            return found[0][0]
        # a graph of its own: building one of its plans selects it, while other threads run the first graph
        fresh = self._cudnn.build(problem)
        for index in range(min(TRIED, fresh.graph.get_execution_plan_count())):
            try:
                candidate = self._cudnn.at_index(fresh, index)
                if candidate.workspace > self.device.options.workspace:
                    continue
                self._cudnn.keep(problem, candidate)
                found.append((measure(), candidate))
            except (self._cudnn.unsupported, ValueError, RuntimeError, MemoryError) as refusal:
                log.debug("cuDNN's plan %d cannot be used: %s", index, refusal)
        best, plan = min(found, key=lambda pair: pair[0])
        self._cudnn.keep(problem, replace(plan, tuned=True))
        return best

    def variant(self) -> str:
        index = self.plan(self.geometry.batch, self.geometry.groups).index
        return "" if index is None else str(index)

    def take(self, variant: str) -> None:
        problem = self._part(self.geometry.batch, self.geometry.groups)
        plan = self._cudnn.plan(problem)
        if plan.tuned or not variant:
            return
        try:
            found = self._cudnn.at_index(self._cudnn.build(problem), int(variant))
        except (self._cudnn.unsupported, ValueError, RuntimeError) as refusal:
            raise UnsupportedProblemError(str(refusal)) from refusal
        self._cudnn.keep(problem, replace(found, tuned=True))

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # the plan has a limit
        cupy, groups = self.device.cupy, self.groups_in(x)
        plan = self.plan(x.shape[0], groups)
        self.device.graphs.keep(plan)
        leading = self.channels if self.geometry.transposed else self.outputs
        w = _aligned(self.filters[first_group * leading : (first_group + groups) * leading])
        workspace = cupy.empty(max(1, plan.workspace), np.uint8)
        x_in, y_out = x, y
        if self._rounds:
            x_in = cupy.ascontiguousarray(x.transpose((0, *range(2, x.ndim), 1)))
            y_out = cupy.empty((y.shape[0], *y.shape[2:], y.shape[1]), y.dtype)
        elif y.data.ptr % ALIGNMENT:
            y_out = cupy.empty(y.shape, y.dtype)
        x_in = _aligned(x_in)
        addresses = {plan.x: x_in.data.ptr, plan.w: w.data.ptr, plan.y: y_out.data.ptr}
        self._cudnn.execute(plan, addresses, workspace.data.ptr, cupy.cuda.get_current_stream())
        if self._rounds:
            y[...] = y_out.transpose((0, y.ndim - 1, *range(1, y.ndim - 1)))
        elif y_out is not y:
            y[...] = y_out
        self.finish(y, first_group)


def _aligned(array: Any) -> Any:
    """A copy of a slice that begins where cuDNN does not accept one."""
    return array.copy() if array.data.ptr % ALIGNMENT else array
