"""cuDNN through nvidia-cudnn-frontend (extra `cudnn`): handles, and graphs of one convolution that are built once.

A convolution is conv_fprop, or for a transposed one conv_dgrad, the gradient of a convolution by its input. cuDNN
cannot infer the extents of that node's result, so it is told. Groups follow from the shapes. Bias and activation may
follow in the same graph, where an engine of cuDNN fuses them. A graph takes milliseconds to build, or longer if cuDNN
compiles its kernel, and contains no weights. So the graphs of recent problems are kept for all kernels.
"""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from threading import Lock
from typing import Any, NamedTuple, Self

import numpy as np
from cachetools import LRUCache

from groupconv.convolution.spec import Activation
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.options import CudaOptions

log = logging.getLogger(__name__)

DATA_TYPE = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}
KEPT_PLANS = 256
TRANSFORMS = ("FFT", "WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13")
"""Numerical notes of engines that transform. Their error is relative to the largest pixels nearby, not to the terms of
an output (docs/convolution.md), so they are not used."""


POINTWISE = {"sigmoid": "sigmoid", "tanh": "tanh", "silu": "swish", "gelu": "gelu", "gelu_tanh": "gelu_approx_tanh"}
"""Methods of a graph, by activation. relu, leaky_relu and prelu take a slope."""


class CudnnError(RuntimeError):
    """cuDNN could not run a plan. It has a status, as CuPy's errors have (see `cuda_errors`)."""

    status = 0


class Operations(NamedTuple):
    """What a graph computes.

    Attributes:
        problem: the convolution, and the activation after it if its geometry has one.
        bias: the dtype of a bias that is added before; None without.
    """

    problem: Problem
    bias: np.dtype | None = None

    @property
    def fused(self) -> bool:
        """Whether there is more than the convolution."""
        return self.bias is not None or self.problem.geometry.activation is not None


@dataclass(frozen=True)
class CudnnPlan:
    """A graph and the execution plan of it that runs.

    Attributes:
        graph: of one convolution.
        x, w, y: its tensors.
        workspace: bytes that the plan needs.
        bias: its tensor of (1, M, 1, …); None without.
        fused: whether bias and activation are in the graph.
        index: of the plan in cuDNN's order; None for the one that cuDNN prefers.
        tuned: whether the plan was measured against the others.
    """

    graph: Any
    x: Any
    w: Any
    y: Any
    workspace: int
    bias: Any = None
    fused: bool = False
    index: int | None = None
    tuned: bool = False

    def execute(self, addresses: dict[Any, int], workspace: int, handle: Any) -> None:
        """Put the convolution on the handle's stream; addresses by tensor."""
        if self.index is None:
            self.graph.execute(addresses, workspace, handle=handle)
        else:
            self.graph.execute_plan_at_index(addresses, workspace, self.index, handle=handle)


class CudnnLibrary:
    """The library, on the current device.

    Args:
        module: of the frontend.
        options: of the engine.
    """

    def __init__(self, module: Any, options: CudaOptions) -> None:
        self.module, self._options = module, options
        self.unsupported: type[Exception] = module.cudnnGraphNotSupportedError
        # Some plans run on streams of the handle's own. Nobody else may use those while they are captured.
        self._handle, self._capturing_handle = module.create_handle(), module.create_handle()
        self.lock = Lock()  # a handle has one stream at a time
        self._plans: LRUCache[Hashable, CudnnPlan | Exception] = LRUCache(KEPT_PLANS)

    @classmethod
    def load(cls, options: CudaOptions) -> Self | None:
        """The library, if the frontend is installed and finds it."""
        try:
            return cls(import_module("cudnn"), options)
        except ImportError:
            return None
        except (OSError, RuntimeError) as error:
            log.warning("nvidia-cudnn-frontend is installed but cannot be used: %s", error)
            return None

    def rounds(self, problem: Problem) -> bool:
        """Whether products may be rounded: then tensor cores compute, which want channels last."""
        return problem.types.input.itemsize == 2 or problem.geometry.math not in (None, "float32")

    def plan(self, operations: Operations) -> CudnnPlan:
        """The plan for a graph; built on first use.

        Raises:
            cudnnGraphNotSupportedError: no engine of cuDNN takes it. A refusal is remembered, too.
        """
        with self.lock:
            if (planned := self._plans.get(operations)) is None:
                try:
                    planned = self.build(operations)
                except self.unsupported as refusal:
                    planned = refusal
                self._plans[operations] = planned
        if isinstance(planned, Exception):
            raise planned
        return planned

    def at_index(self, plan: CudnnPlan, index: int) -> CudnnPlan:
        """One of the plans of a graph that nobody runs yet, in cuDNN's order.

        Raises:
            cudnnGraphNotSupportedError: it cannot be built.
        """
        with self.lock:
            plan.graph.build_plan_at_index(index)
            return replace(plan, index=index, workspace=int(plan.graph.get_workspace_size_plan_at_index(index)))

    def version(self) -> str:
        """The version of cuDNN, for people."""
        return str(self.module.backend_version_string())

    def keep(self, operations: Operations, plan: CudnnPlan) -> None:
        """Use this plan from now on."""
        with self.lock:
            self._plans[operations] = plan

    def execute(self, plan: CudnnPlan, addresses: dict[Any, int], workspace: int, stream: Any) -> None:
        """Put a plan on a stream.

        Args:
            plan: what to run.
            addresses: on the device, by tensor. DLPack would order arrays behind the legacy default stream.
            workspace: the address of `plan.workspace` bytes.
            stream: of CuPy; it may be capturing.

        Raises:
            CudnnError: cuDNN refuses.
        """
        handle = self._capturing_handle if stream.is_capturing() else self._handle
        with self.lock:
            self.module.set_stream(handle=handle, stream=stream.ptr)
            try:
                plan.execute(addresses, workspace, handle)
            except RuntimeError as error:
                raise CudnnError(str(error)) from error

    def build(self, operations: Operations) -> CudnnPlan:
        """A new graph, with the plan that cuDNN prefers.

        Raises:
            cudnnGraphNotSupportedError: no engine of cuDNN takes it.
        """
        problem, cudnn = operations.problem, self.module
        g, rounds = problem.geometry, self.rounds(problem)
        kind = getattr(cudnn.data_type, DATA_TYPE[str(problem.types.input)])
        graph = cudnn.pygraph(
            handle=self._handle,
            io_data_type=kind,
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
        )

        def tensor(name: str, shape: Sequence[int], kind: Any = kind) -> Any:
            dim = (*shape[:2], *two_or_more(shape[2:], 1))
            return graph.tensor(name=name, dim=list(dim), stride=_strides(dim, channels_last=rounds), data_type=kind)

        x, w = tensor("x", g.input_shape), tensor("w", g.weight_shape)
        window = {
            "pre_padding": [lo for lo, _ in two_or_more(g.padding, (0, 0))],
            "post_padding": [hi for _, hi in two_or_more(g.padding, (0, 0))],
            "stride": list(two_or_more(g.stride, 1)),
            "dilation": list(two_or_more(g.dilation, 1)),
        }
        if g.transposed:
            y = graph.conv_dgrad(loss=x, filter=w, **window)
        else:
            y = graph.conv_fprop(image=x, weight=w, **window)
        dim = (g.batch, g.out_channels, *two_or_more(g.output, 1))
        stride = _strides(dim, channels_last=rounds)
        y.set_dim(list(dim)).set_stride(stride)
        bias = None
        if operations.bias is not None:
            of = getattr(cudnn.data_type, DATA_TYPE[str(operations.bias)])
            bias = tensor("bias", (1, g.out_channels, *(1 for _ in g.output)), of)
            y = graph.bias(input=y, bias=bias)
        y = _activated(graph, y, g.activation)
        y.set_dim(list(dim)).set_stride(stride).set_output(True).set_data_type(kind)

        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        unwanted = [note for name in TRANSFORMS if (note := getattr(cudnn.numerical_note, name, None)) is not None]
        if not rounds:
            unwanted.append(cudnn.numerical_note.TENSOR_CORE)
        if g.math != "float16":  # to float16, whose range is narrower than that of tf32 and bfloat16
            unwanted.append(cudnn.numerical_note.DOWN_CONVERT_INPUTS)
        if self._options.deterministic:
            unwanted.append(cudnn.numerical_note.NONDETERMINISTIC)
        graph.deselect_numeric_notes(unwanted)
        graph.deselect_workspace_greater_than(self._options.workspace)
        graph.check_support()
        graph.build_plans()
        return CudnnPlan(graph, x, w, y, int(graph.get_workspace_size()), bias, operations.fused)


def fuses(activation: Activation | None) -> bool:
    """Whether a graph can have this activation; cuDNN knows one slope for all channels."""
    return activation is None or len(activation.slope) <= 1


def _activated(graph: Any, y: Any, activation: Activation | None) -> Any:
    """The tensor after an activation."""
    if activation is None:
        return y
    if activation.kind == "relu":
        return graph.relu(input=y)
    if activation.slope:
        return graph.leaky_relu(input=y, negative_slope=activation.slope[0])
    return getattr(graph, POINTWISE[activation.kind])(input=y)


def two_or_more(values: Sequence[Any], fill: Any) -> tuple[Any, ...]:
    """Values by axis for cuDNN, which has no convolution of one axis: that axis is the width of a map one row high."""
    return (fill, *values) if len(values) == 1 else tuple(values)


def _strides(shape: Sequence[int], *, channels_last: bool) -> list[int]:
    """Strides of a contiguous tensor (N, C, *spatial)."""
    order = (0, *range(2, len(shape)), 1) if channels_last else range(len(shape))
    strides, step = [0] * len(shape), 1
    for axis in reversed(tuple(order)):
        strides[axis], step = step, step * shape[axis]
    return strides
