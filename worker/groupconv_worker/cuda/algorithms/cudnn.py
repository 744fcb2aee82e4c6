"""Convolution by cuDNN, where nvidia-cudnn-frontend is installed.

16-bit tensors, and float32 that may be rounded, are passed channels last, as tensor cores want them. The way there and
back costs a pass over input and output, which the choice by measurement takes into account. Between two such steps of a
chain maps stay channels last (chain.py).

Bias and activation are a kernel of ours behind cuDNN's, or in cuDNN's graph. Many engines that fuse compile their
kernel when a plan is built, so only a resident kernel tries them, while it is measured: see docs/adr/0028.
"""

import functools
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import Types
from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms.base import DeviceKernel, UnsupportedProblemError
from groupconv_worker.cuda.cudnn import DATA_TYPE, CudnnLibrary, CudnnPlan, Operations, fuses, two_or_more
from groupconv_worker.cuda.device import Device, device_types, storage

log = logging.getLogger(__name__)

ALIGNMENT = 16
"""Bytes that an address has to be a multiple of, unless a tensor says otherwise. Source: cuDNN, graph API."""
TRIED, TRIED_FUSED = 16, 4
"""Plans of a problem, in cuDNN's own order, that a resident kernel is measured with. Fused ones may compile first."""
FUSED = "fused"
"""Begins the variant of a kernel whose bias and activation are in cuDNN's graph."""


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
        # what cuDNN computes of it, with the activation or without
        self._plain = replace(g, flip_kernel=False, exact=False)
        self._rounds = self._cudnn.rounds(Problem(g, self.types))
        self.channels_last = self._rounds
        self._fused, self._bias = False, bias
        self._fusable = not self.epilogue.is_identity and fuses(g.activation)
        try:
            self.plan(g.batch, g.groups)
        except self._cudnn.unsupported as refusal:
            raise UnsupportedProblemError(str(refusal)) from refusal
        w = np.flip(weight, tuple(range(2, weight.ndim))) if g.flip_kernel else weight
        w = w.reshape(*w.shape[:2], *two_or_more(g.kernel, 1))
        # the slice of a group is contiguous either way: channels last only moves the axes behind the first
        self.filters = self.upload(np.moveaxis(w, 1, -1) if self._rounds else w)

    @property
    def nbytes(self) -> int:
        return super().nbytes + (int(self._graph_bias[0].nbytes) if "_graph_bias" in self.__dict__ else 0)

    @functools.cached_property
    def _graph_bias(self) -> tuple[Any, np.dtype]:
        """The bias on the device as a graph reads it, and its dtype. Only resident kernels come here."""
        assert self._bias is not None, "the caller looks"
        bias = _bias_of_graph(self._bias, self.types)
        return self.device.upload(bias), bias.dtype

    @classmethod
    def traits(cls, problem: Problem, weight: Array, bias: Array | None) -> str:  # noqa: ARG003 - any weights will do
        """The dtype of the bias in a graph, which has other plans with another one."""
        return "" if bias is None else str(_bias_of_graph(bias, device_types(problem.types)).dtype)

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
        if self._fused:
            with suppress(self._cudnn.unsupported):
                return self._cudnn.plan(self._operations(batch, groups, fused=True))
        return self._cudnn.plan(self._operations(batch, groups, fused=False))

    def _operations(self, batch: int, groups: int, *, fused: bool) -> Operations:
        """The operations of the graph for so many samples and groups."""
        channels, outputs = groups * self.channels, groups * self.outputs
        part = replace(self._plain, batch=batch, groups=groups, in_channels=channels, out_channels=outputs)
        if not fused:
            return Operations(Problem(replace(part, activation=None), self.types))
        return Operations(Problem(part, self.types), None if self._bias is None else self._graph_bias[1])

    def tune(self, measure: Callable[[], float]) -> float:
        """Find the fastest of cuDNN's plans, fused or not, for the problem's batch and all kernels of its shape."""
        self._fused = False
        took = {False: self._tune(measure, TRIED)}
        if self._fusable:
            try:
                nans = self._nans()
                self._fused = True
                took[True] = self._tune(measure, TRIED_FUSED, nans)
            except (self._cudnn.unsupported, UnsupportedProblemError, ValueError, RuntimeError, MemoryError) as refusal:
                log.debug("cuDNN does not fuse bias and activation: %s", refusal)
        self._fused = took.get(True, math.inf) < took[False]
        return took[self._fused]

    def _tune(self, measure: Callable[[], float], most: int, nans: Array | None = None) -> float:
        """Milliseconds of the fastest plan of a graph, which is kept. A plan that makes other NaNs is not used."""
        operations = self._operations(self.geometry.batch, self.geometry.groups, fused=self._fused)
        plan = self._cudnn.plan(operations)
        timed: list[tuple[float, CudnnPlan]] = []

        def consider(candidate: CudnnPlan) -> None:
            self._cudnn.keep(operations, candidate)
            if nans is None or np.array_equal(self._nans(), nans):
                timed.append((measure(), candidate))

        consider(plan)
        if not plan.tuned:
            # a graph of its own: building one of its plans selects it, while other threads run the first graph
            fresh = self._cudnn.build(operations)
            for index in range(min(most, fresh.graph.get_execution_plan_count())):
                try:
                    candidate = self._cudnn.at_index(fresh, index)
                    if candidate.workspace <= self.device.options.workspace:
                        consider(candidate)
                except (self._cudnn.unsupported, ValueError, RuntimeError, MemoryError) as refusal:
                    log.debug("cuDNN's plan %d cannot be used: %s", index, refusal)
        if not timed:
            raise UnsupportedProblemError("a NaN does not stay one")
        best, plan = min(timed, key=lambda pair: pair[0])
        self._cudnn.keep(operations, replace(plan, tuned=True))
        return best

    def _nans(self) -> Array:
        """Which outputs of the first sample are NaN if all pixels are: nobody says whether cuDNN's ReLU keeps them."""
        g, cupy = self.geometry, self.device.cupy
        x = cupy.empty((g.batch, g.in_channels, *g.input), storage(self.types.input))
        y = cupy.empty((g.batch, g.out_channels, *g.output), storage(self.types.output))
        x.view(np.uint8).fill(0xFF)
        self.launch(x, y, 0, self.device.options.workspace)
        nans: Array = np.isnan(y[:1].get().view(self.types.output).astype(np.float32))
        return nans

    def variant(self) -> str:
        index = self.plan(self.geometry.batch, self.geometry.groups).index
        return (FUSED if self._fused else "") + ("" if index is None else str(index))

    def take(self, variant: str) -> None:
        self._fused, index = variant.startswith(FUSED), variant.removeprefix(FUSED)
        if self._fused and not self._fusable:
            raise UnsupportedProblemError("an epilogue that cuDNN does not fuse")
        operations = self._operations(self.geometry.batch, self.geometry.groups, fused=self._fused)
        try:
            if self._cudnn.plan(operations).tuned or not index:
                return
            plan = self._cudnn.at_index(self._cudnn.build(operations), int(index))
        except (self._cudnn.unsupported, ValueError, RuntimeError) as refusal:
            raise UnsupportedProblemError(str(refusal)) from refusal
        self._cudnn.keep(operations, replace(plan, tuned=True))

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # the plan has a limit
        cupy, groups = self.device.cupy, self.groups_in(x)
        plan = self.plan(x.shape[0], groups)
        self.device.graphs.keep(plan)
        leading = self.channels if self.geometry.transposed else self.outputs
        w = _aligned(self.filters[first_group * leading : (first_group + groups) * leading])
        workspace = cupy.empty(max(1, plan.workspace), np.uint8)
        # as cuDNN wants them; between two steps that do they lie in memory like that, and nothing is moved
        x_in, y_moved = (self._moved(array) for array in (x, y))
        x_in = _aligned(cupy.ascontiguousarray(x_in))
        in_place = y_moved.flags.c_contiguous and y_moved.data.ptr % ALIGNMENT == 0
        y_out = y_moved if in_place else cupy.empty(y_moved.shape, y.dtype)
        addresses = {plan.x: x_in.data.ptr, plan.w: w.data.ptr, plan.y: y_out.data.ptr}
        if plan.bias is not None:
            bias = _aligned(self._graph_bias[0][first_group * self.outputs : (first_group + groups) * self.outputs])
            addresses[plan.bias] = bias.data.ptr
        self._cudnn.execute(plan, addresses, workspace.data.ptr, cupy.cuda.get_current_stream())
        if not in_place:
            y_moved[...] = y_out
        if not plan.fused:
            self.finish(y, first_group)

    def _moved(self, array: Any) -> Any:
        """A view (N, *spatial, C) of an array (N, C, *spatial) where cuDNN reads channels last; the array elsewhere."""
        return array.transpose((0, *range(2, array.ndim), 1)) if self._rounds else array


def _bias_of_graph(bias: Array, types: Types) -> Array:
    """The bias as a graph reads it: more engines take the tensors' dtype, so it has that if nothing of it is lost."""
    wide = bias.astype(types.accumulate)
    with np.errstate(over="ignore"):
        narrow = wide.astype(types.input)
    return narrow if np.array_equal(narrow.astype(wide.dtype), wide) else wide


def _aligned(array: Any) -> Any:
    """A copy of a slice that begins where cuDNN does not accept one."""
    return array.copy() if array.data.ptr % ALIGNMENT else array
