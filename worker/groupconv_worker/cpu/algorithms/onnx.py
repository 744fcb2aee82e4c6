"""onnxruntime: its Conv and ConvTranspose, the best dense convolutions on CPUs that a wheel ships.

A resident kernel's weights are initializers, which the library packs once. A one-shot kernel's are inputs of a
session that is kept per geometry, because making a session costs as much as many convolutions. Every session has
one thread; the team splits the output channels instead, so that sessions have no threads of their own.
"""

import functools
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from groupconv.convolution import cost
from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.algorithms.plane import bias_of, zero_padded
from groupconv_worker.cpu.algorithms.samples import Samples
from groupconv_worker.cpu.threads import Team
from groupconv_worker.job import current
from groupconv_worker.taps import padding_dominates

SESSIONS = 64
"""Sessions kept for one-shot kernels."""
PRODUCTS = 2**24
"""Most products of a group and a sample that a transposed convolution may have in memory."""
SESSION_MACS, MOST_PARTS = 2**30, 16
"""Most multiply-adds of a session, some 50 ms, as nothing can stop it; most sessions of a convolution."""
SESSION = 128 * 1024
"""Bytes of a session beside its weights, as measured."""


class OnnxRuntime:
    """Takes float32 accumulators, nearly every geometry.

    Args:
        team: the threads.
    """

    name = "onnxruntime"

    def __init__(self, team: Team) -> None:
        self.team = team
        self._sessions: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def supports(self, problem: Problem) -> bool:
        """float32; an output padding of a whole stride is refused by the operator, though PyTorch has it."""
        g = problem.geometry
        if g.transposed:  # the operator multiplies all at once, and adds the products up then
            products = math.prod(g.weight_shape[1:]) * math.prod(g.input)
            fits = products <= PRODUCTS and all(
                r == 0 or r < s for r, s in zip(g.output_padding, g.stride, strict=True)
            )
        else:
            fits = g.padding_mode == "zeros" or not padding_dominates(g)
        return problem.types.accumulate == np.float32 and fits and _macs(g) <= SESSION_MACS * min(units(g), MOST_PARTS)

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """Resident: a session that owns the weights. One-shot: a kept session that takes them as inputs."""
        g = zero_padded(problem.geometry)
        w = weight.astype(np.float32, copy=False)
        if g.flip_kernel:
            w = np.flip(w, tuple(range(2, w.ndim)))
        kernel = _Sliced(self, g, np.ascontiguousarray(w), bias_of(bias, g, w.dtype), resident=resident)
        return Samples(problem, kernel, activated=kernel.relu)

    def shared_session(self, g: Geometry, channels: tuple[int, int]) -> Any:
        """The one-shot session of output channels of `g`, made if it is not kept."""
        key = (g.with_batch(1), channels)
        with self._lock:
            session = self._sessions.pop(key, None) or _session(g, channels, None, None)
            self._sessions[key] = session
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        return session


class _Sliced:
    """One session per part of the output channels.

    Attributes:
        relu: whether it applies the activation, which is a ReLU; any other is applied to its result.
    """

    algorithm = "onnxruntime"

    def __init__(self, runtime: OnnxRuntime, g: Geometry, w: Array, bias: Array, *, resident: bool) -> None:
        self.team = runtime.team
        self.relu = g.activation is not None and g.activation.kind == "relu"
        self.parts: list[tuple[int, int, Any, tuple[Array, Array] | None]] = []
        for start, stop in parts(g, max(runtime.team.threads, -(-_macs(g) // SESSION_MACS))):
            weights = (part_of(w, g, start, stop), bias[start:stop])
            if resident:
                self.parts.append((start, stop, _session(g, (start, stop), *weights), None))
            else:
                self.parts.append((start, stop, runtime.shared_session(g, (start, stop)), weights))
        self.geometry = g
        weights_bytes = w.nbytes + bias.nbytes
        # a session has its weights as they came and once more, packed for its kernels
        self.nbytes = len(self.parts) * SESSION + (2 * weights_bytes if resident else weights_bytes)

    def run(self, x: Array, y: Array) -> None:
        for sample, output in zip(x, y, strict=True):
            self._sample(sample, output)

    def _sample(self, x: Array, y: Array) -> None:
        job = current()

        def work(first: int, last: int) -> None:
            for start, stop, session, weights in self.parts[first:last]:
                if job.word.value:
                    job.check()
                part = y[start:stop]
                _run(session, self._seen(x, start, stop), weights, part)
                if self.relu:  # here the part is in the cache of this thread
                    np.maximum(part, 0, out=part)

        self.team.run(work, len(self.parts))

    def _seen(self, x: Array, start: int, stop: int) -> Array:
        """The input channels that these output channels see."""
        if self.geometry.groups == 1:
            return x
        scale = self.geometry.in_channels, self.geometry.out_channels
        return x[start * scale[0] // scale[1] : stop * scale[0] // scale[1]]


def parts(g: Geometry, count: int) -> list[tuple[int, int]]:
    """Output channels cut into at most `count` even parts, between groups if there are any.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> parts(resolve(ConvSpec(groups=3), (1, 6, 8), (12, 2, 3)), 2)
        [(0, 4), (4, 12)]
    """
    size = g.out_channels // units(g)
    count = min(count, units(g))
    bounds = [units(g) * i // count * size for i in range(count + 1)]
    return list(itertools.pairwise(bounds))


def units(g: Geometry) -> int:
    """Parts that the output channels may be cut into at most."""
    return g.groups if g.groups > 1 else g.out_channels


def _macs(g: Geometry) -> int:
    """Multiply-adds of a sample."""
    return cost.multiply_adds(g.with_batch(1))


def part_of(w: Array, g: Geometry, start: int, stop: int) -> Array:
    """The weights of output channels start … stop - 1."""
    if not g.transposed:
        return w[start:stop]
    if g.groups == 1:
        return np.ascontiguousarray(w[:, start:stop])
    return w[start * g.in_channels // g.out_channels : stop * g.in_channels // g.out_channels]


def _run(session: Any, x: Array, weights: tuple[Array, Array] | None, y: Array) -> None:
    """Run on arrays in place: the session reads x and writes y where they lie."""
    binding = session.io_binding()
    inputs = {"x": x[None]} if weights is None else {"x": x[None], "w": weights[0], "b": weights[1]}
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, (1, *y.shape), y.ctypes.data)
    session.run_with_iobinding(binding)


@functools.cache
def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # an arena keeps, in each session, what its largest run wrote between; malloc gives that to the next run of any
    options.enable_cpu_mem_arena = False
    return options


def _session(g: Geometry, channels: tuple[int, int], w: Array | None, bias: Array | None) -> Any:
    """A session for some output channels of `g`: of x alone, or of x, w and b where no weights are given."""
    count = channels[1] - channels[0]
    groups = max(1, g.groups * count // g.out_channels)
    inputs = g.in_channels * groups // g.groups
    attributes: dict[str, Any] = {
        "kernel_shape": g.kernel,
        "strides": g.stride,
        "dilations": g.dilation,
        "group": groups,
        "pads": [low for low, _ in g.padding] + [high for _, high in g.padding],
    }
    if g.transposed:
        attributes["output_padding"] = g.output_padding
        shape = (inputs, count // groups, *g.kernel)
    else:
        shape = (count, inputs // groups, *g.kernel)
    node = helper.make_node("ConvTranspose" if g.transposed else "Conv", ["x", "w", "b"], ["y"], **attributes)
    tensors = {"x": (1, inputs, *g.input), "w": shape, "b": (count,)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in tensors.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, count, *g.output))
    constants = []
    if w is not None and bias is not None:
        values = values[:1]
        constants = [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([node], "convolution", values, [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
