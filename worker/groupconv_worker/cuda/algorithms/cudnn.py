"""cuDNN, where nvidia-cudnn-frontend is installed (extra `cudnn`).

A convolution is a graph of one node: conv_fprop, or conv_dgrad for a transposed one, which is the gradient of a
convolution by its input; cuDNN cannot infer that node's result and is told its extents. Groups follow from the
shapes. A graph takes milliseconds to build and knows no weights, so those of recent shapes are kept for all kernels.

16-bit tensors, and float32 that may be rounded, are handed over channels last, as tensor cores want them; the
way there and back costs a pass over input and output, which the choice by measurement takes into account.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms.gemm import finish_in_place
from groupconv_worker.cuda.device import Device, Epilogue, device_types
from groupconv_worker.cuda.kernel import DeviceKernel

log = logging.getLogger(__name__)

DATA_TYPE = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}
ALIGNMENT = 16
"""Bytes that an address has to be a multiple of, unless a tensor says otherwise. Source: cuDNN, graph API."""
KEPT_PLANS = 256
TRANSFORMS = ("FFT", "WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13")
"""cuDNN's notes of engines that transform, which are not taken."""
TRIED = 16
"""Plans of a shape, in cuDNN's own order, that a kernel that stays is measured with."""


class CudnnError(RuntimeError):
    """cuDNN could not run a plan; with a status, as CuPy's errors have one (see `cuda_errors`)."""

    status = 0


class Cudnn:
    """Convolutions padded with zeros, of float32 and the 16-bit floats.

    Args:
        device: where.
        cudnn: the module.
    """

    name = "cudnn"

    def __init__(self, device: Device, cudnn: Any) -> None:
        self.device, self.cudnn = device, cudnn
        # two: some plans run on streams of the handle's own, and while those are captured nobody else may use them
        self.handle, self.capturing_handle = cudnn.create_handle(), cudnn.create_handle()
        self.lock = Lock()  # a handle has one stream at a time
        self._plans: OrderedDict[Hashable, _Plan | Exception] = OrderedDict()

    def supports(self, problem: Problem) -> bool:
        """By shape and dtype; what cuDNN itself refuses, it refuses in `prepare`."""
        g = problem.geometry
        if str(device_types(problem.types).input) not in DATA_TYPE or g.padding_mode != "zeros":
            return False
        # cuDNN derives the input's extent from the gradient's; more output padding than the stride is outside that
        return not g.transposed or all(r < s for r, s in zip(g.output_padding, g.stride, strict=True))

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """Build the graph for the problem's batch.

        Raises:
            cudnn.cudnnGraphNotSupportedError: no engine of cuDNN takes it.
        """
        kernel = CudnnKernel(self, problem, weight, bias)
        kernel.plan(problem.geometry.batch, problem.geometry.groups)
        return kernel

    def plan(self, key: Hashable, build: Callable[[], "_Plan"]) -> "_Plan":
        """What was built for `key` before, a refusal too; else what `build` makes or raises now."""
        with self.lock:
            if key not in self._plans:
                try:
                    self._plans[key] = build()
                except self.cudnn.cudnnGraphNotSupportedError as refusal:
                    self._plans[key] = refusal
                if len(self._plans) > KEPT_PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(key)
            found = self._plans[key]
        if isinstance(found, Exception):
            raise found
        return found

    def keep(self, key: Hashable, plan: "_Plan") -> None:
        """Use this plan for `key` from now on."""
        with self.lock:
            self._plans[key] = plan


@dataclass(frozen=True)
class _Plan:
    """A graph and which of its plans runs: the one that cuDNN would take, until another was measured to be faster."""

    graph: Any
    x: Any
    w: Any
    y: Any
    workspace: int
    index: int | None = None
    tuned: bool = False

    def execute(self, places: dict[Any, int], workspace: int, handle: Any) -> None:
        if self.index is None:
            self.graph.execute(places, workspace, handle=handle)
        else:
            self.graph.execute_plan_at_index(places, workspace, self.index, handle=handle)


class CudnnKernel:
    """A `DeviceKernel`; its graphs are its owner's."""

    algorithm = "cudnn"

    def __init__(self, owner: Cudnn, problem: Problem, weight: Array, bias: Array | None) -> None:
        g = problem.geometry
        self._owner, self._device, self._geometry = owner, owner.device, g
        self._types = device_types(problem.types)
        options = owner.device.options
        self._rounds = self._types.input.itemsize == 2 or options.math != "float32"
        w = np.flip(weight, tuple(range(2, weight.ndim))) if g.flip_kernel else weight
        w = w.astype(self._types.weight, copy=False).reshape(*w.shape[:2], *_two_or_more(g.kernel, 1))
        # the slice of a group is contiguous either way: channels last only moves the axes behind the first
        self._filters = self._device.upload(np.moveaxis(w, 1, -1) if self._rounds else w)
        self._epilogue = Epilogue(owner.device, g, bias, self._types.accumulate)
        self._window = g.input, g.output, g.kernel, g.stride, g.dilation, g.padding, g.transposed

    @property
    def nbytes(self) -> int:
        """As of `DeviceKernel`."""
        return int(self._filters.nbytes) + self._epilogue.nbytes

    def workspace(self, batch: int, groups: int) -> int:
        """The plan's, and copies with channels last where they are made."""
        g = self._geometry
        moved = batch * groups * (g.in_channels * math.prod(g.input) + g.out_channels * math.prod(g.output))
        return self.plan(batch, groups).workspace + (moved // g.groups * self._types.input.itemsize) * self._rounds

    def plan(self, batch: int, groups: int) -> _Plan:
        """The graph for so many samples and groups."""
        return self._owner.plan(self._key(batch, groups), lambda: self._build(batch, groups))

    def _key(self, batch: int, groups: int) -> Hashable:
        g = self._geometry
        channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
        return batch, groups, channels, filters, self._window, self._types.input

    def tune(self, measure: Callable[[], float]) -> float:
        """Find the fastest of cuDNN's plans for the problem's batch, for all kernels of its shape.

        Args:
            measure: how long this kernel takes now.

        Returns:
            How long it takes with the plan found.
        """
        size = self._geometry.batch, self._geometry.groups
        key, plan = self._key(*size), self.plan(*size)
        found = [(measure(), plan)]
        if plan.tuned:
            return found[0][0]
        # another graph: to build one of its plans is to select it, and others run the first one's meanwhile
        fresh = self._build(*size)
        for index in range(min(TRIED, fresh.graph.get_execution_plan_count())):
            try:
                with self._owner.lock:
                    fresh.graph.build_plan_at_index(index)
                    workspace = int(fresh.graph.get_workspace_size_plan_at_index(index))
                if workspace > self._device.options.workspace:
                    continue
                self._owner.keep(key, candidate := replace(fresh, index=index, workspace=workspace))
                found.append((measure(), candidate))
            except (self._owner.cudnn.cudnnGraphNotSupportedError, ValueError, RuntimeError, MemoryError) as refusal:
                log.debug("cuDNN's plan %d: %s", index, refusal)
        best, plan = min(found, key=lambda pair: pair[0])
        self._owner.keep(key, replace(plan, tuned=True))
        return best

    def _build(self, batch: int, groups: int) -> _Plan:
        cudnn, g = self._owner.cudnn, self._geometry
        kind = getattr(cudnn.data_type, DATA_TYPE[str(self._types.input)])
        graph = cudnn.pygraph(
            handle=self._owner.handle,
            io_data_type=kind,
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
        )

        def tensor(name: str, shape: Sequence[int]) -> Any:
            return graph.tensor(name=name, dim=list(shape), stride=self._strides(shape), data_type=kind)

        per_x, per_y = g.in_channels // g.groups, g.out_channels // g.groups
        x = tensor("x", (batch, groups * per_x, *_two_or_more(g.input, 1)))
        leading, rest = (per_x, per_y) if g.transposed else (per_y, per_x)
        w = tensor("w", (groups * leading, rest, *_two_or_more(g.kernel, 1)))
        window = {
            "pre_padding": [lo for lo, _ in _two_or_more(g.padding, (0, 0))],
            "post_padding": [hi for _, hi in _two_or_more(g.padding, (0, 0))],
            "stride": list(_two_or_more(g.stride, 1)),
            "dilation": list(_two_or_more(g.dilation, 1)),
        }
        y_shape = (batch, groups * per_y, *_two_or_more(g.output, 1))
        if g.transposed:
            y = graph.conv_dgrad(loss=x, filter=w, **window)
        else:
            y = graph.conv_fprop(image=x, weight=w, **window)
        y.set_dim(list(y_shape)).set_stride(self._strides(y_shape)).set_output(True).set_data_type(kind)

        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        # their error is relative to the largest pixels nearby, not to the terms of an output (docs/convolution.md)
        unwanted = [note for name in TRANSFORMS if (note := getattr(cudnn.numerical_note, name, None)) is not None]
        if not self._rounds:
            unwanted += [cudnn.numerical_note.TENSOR_CORE, cudnn.numerical_note.DOWN_CONVERT_INPUTS]
        if self._device.options.deterministic:
            unwanted.append(cudnn.numerical_note.NONDETERMINISTIC)
        graph.deselect_numeric_notes(unwanted)
        graph.deselect_workspace_greater_than(self._device.options.workspace)
        graph.check_support()
        graph.build_plans()
        return _Plan(graph, x, w, y, int(graph.get_workspace_size()))

    def _strides(self, shape: Sequence[int]) -> list[int]:
        """Of a tensor (N, C, *spatial), channels last if tensor cores are to be used."""
        order = (0, *range(2, len(shape)), 1) if self._rounds else range(len(shape))
        strides, step = [0] * len(shape), 1
        for axis in reversed(tuple(order)):
            strides[axis], step = step, step * shape[axis]
        return strides

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # noqa: ARG002 - capped in the plan
        """As `DeviceKernel.launch`."""
        g, cupy, owner = self._geometry, self._device.cupy, self._owner
        groups = x.shape[1] // (g.in_channels // g.groups)
        plan = self.plan(x.shape[0], groups)
        self._device.graphs.keep(plan)
        leading = (g.in_channels if g.transposed else g.out_channels) // g.groups
        w = _aligned(self._filters[first_group * leading : (first_group + groups) * leading])
        workspace = cupy.empty(max(1, plan.workspace), np.uint8)
        x_in, y_out = x, y
        if self._rounds:
            last = (0, *range(2, x.ndim), 1)
            x_in = cupy.ascontiguousarray(x.transpose(last))
            y_out = cupy.empty((y.shape[0], *y.shape[2:], y.shape[1]), y.dtype)
        elif y.data.ptr % ALIGNMENT:
            y_out = cupy.empty(y.shape, y.dtype)
        x_in = _aligned(x_in)
        stream = cupy.cuda.get_current_stream()
        handle = owner.capturing_handle if stream.is_capturing() else owner.handle
        with owner.lock:
            owner.cudnn.set_stream(handle=handle, stream=stream.ptr)
            # addresses, not arrays: DLPack would order them behind the legacy default stream
            places = {plan.x: x_in.data.ptr, plan.w: w.data.ptr, plan.y: y_out.data.ptr}
            try:
                plan.execute(places, workspace.data.ptr, handle)
            except RuntimeError as error:
                raise CudnnError(str(error)) from error
        if self._rounds:
            y[...] = y_out.transpose((0, y.ndim - 1, *range(1, y.ndim - 1)))
        elif y_out is not y:
            y[...] = y_out
        if not self._epilogue.is_identity:
            per_y = g.out_channels // g.groups
            flat = y.reshape(x.shape[0], groups * per_y, -1)
            finish_in_place(
                self._device,
                self._epilogue,
                flat,
                self._types.output,
                first_group * per_y,
                groups * per_y,
                math.prod(g.output),
            )


def _aligned(array: Any) -> Any:
    """A copy of a slice that begins where cuDNN does not accept one."""
    return array.copy() if array.data.ptr % ALIGNMENT else array


def _two_or_more(values: Sequence[Any], fill: Any) -> tuple[Any, ...]:
    """cuDNN knows no convolution of one axis: it becomes the width of a map one row high."""
    return (fill, *values) if len(values) == 1 else tuple(values)
