"""Messages of resident layers: the stream that loads one, and the server's description of one."""

import html
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from groupconv.arguments import as_array, checked_steps, supported
from groupconv.convolution.dtypes import as_dtype, is_float
from groupconv.convolution.html import html_table
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Array, Step, geometries
from groupconv.convolution.totals import Window, field_of, stride_of, words
from groupconv.errors import InvalidArgumentError
from groupconv.text import human_bytes
from groupconv.v1 import layer_pb2
from groupconv.wire.specs import spec_from_wire, spec_to_wire
from groupconv.wire.tensors import type_from_wire, type_to_wire

CHUNK_BYTES = 2**20
"""Bytes of weights in one message."""


@dataclass(frozen=True)
class LayerInfo:
    """A loaded layer as the server describes it.

    Attributes:
        name: its name.
        version: its version; each load under a name gets a higher one.
        specs: the convolution of each step.
        kernel_shapes: the kernel's shape of each step.
        dtype: dtype of the first kernel.
        bytes: size of all weights.
        requests: requests that this version answered.
        failures: requests that failed.
        samples: samples in the answered requests.
        seconds: total time from a parsed request to its output, over the answered requests.
        batches: number of runs by batch size, if the server may join requests; else empty.
    """

    name: str
    version: int
    specs: tuple[ConvSpec, ...]
    kernel_shapes: tuple[tuple[int, ...], ...]
    dtype: np.dtype
    bytes: int
    requests: int
    failures: int
    samples: int
    seconds: float
    batches: Mapping[int, int] = field(default_factory=dict)

    @property
    def windows(self) -> tuple[Window, ...]:
        """The window of each step, for `groupconv.receptive_field`."""
        return tuple(spec.window(shape) for spec, shape in zip(self.specs, self.kernel_shapes, strict=True))

    @property
    def weights(self) -> int:
        """Number of kernel weights of all steps, without biases."""
        return sum(map(math.prod, self.kernel_shapes))

    @property
    def stride(self) -> tuple[int | Fraction, ...]:
        """Input elements per axis between two neighboring outputs of the last step."""
        return stride_of(self.windows)

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Input elements per axis that one output of the last step depends on, from the first to the last."""
        return field_of(self.windows)

    def multiply_adds(self, input_shape: Sequence[int]) -> int:
        """Multiply-adds of all steps for an input (N, C, *spatial).

        Raises:
            InvalidArgumentError: the shape does not fit.
        """
        return sum(g.multiply_adds for g in geometries(self.specs, input_shape, self.kernel_shapes))

    def summary(self) -> str:
        """Name, version, dtype, size and kernels in one line."""
        kernels = ", ".join(map(str, self.kernel_shapes))
        return f"{self.name} version {self.version}: kernel {kernels} {self.dtype}, {human_bytes(self.bytes)}"

    def _repr_html_(self) -> str:
        steps = [(str(i), str(k), str(s)) for i, (k, s) in enumerate(zip(self.kernel_shapes, self.specs, strict=True))]
        numbers = f"{self.weights:,} weights, {words(self.windows)}"
        return f"<p>{html.escape(self.summary())}<br>{numbers}</p>{html_table([('step', 'kernel', 'spec'), *steps])}"


def load_messages(
    name: str, steps: Sequence[Step], dtype: Any = None, inputs: Sequence[Sequence[int]] = ()
) -> Iterator[layer_pb2.LoadLayerRequest]:
    """Yield the messages of the stream that loads a layer: a header, then the weights in chunks.

    Args:
        name: segments of letters, digits, '.', '_' and '-' with '/' between them.
        steps: at least one.
        dtype: the dtype to convert kernels and biases to; None leaves each as it is.
        inputs: input shapes that the server should prepare for.

    Raises:
        InvalidArgumentError: there are no steps, or a dtype is not supported.
    """
    steps = checked_steps(steps)
    header = layer_pb2.LayerHeader(name=name)
    arrays: list[Array] = []
    wanted_dtype = None if dtype is None else as_dtype("dtype", dtype)
    for i, step in enumerate(steps):
        kernel = supported(f"steps[{i}].kernel", as_array(step.kernel, f"steps[{i}].kernel"), wanted_dtype)
        if wanted_dtype is not None and kernel.dtype != wanted_dtype:
            raise InvalidArgumentError("dtype", "a float, as weights are not converted to integers", str(wanted_dtype))
        message = header.steps.add(kernel=type_to_wire(kernel.dtype, kernel.shape), spec=spec_to_wire(step.spec))
        arrays.append(kernel)
        if step.bias is not None:
            wanted = kernel.dtype if is_float(kernel.dtype) else None
            bias = supported(f"steps[{i}].bias", as_array(step.bias, f"steps[{i}].bias"), wanted)
            message.bias.CopyFrom(type_to_wire(bias.dtype, bias.shape))
            arrays.append(bias)
    try:
        shapes = [tuple(map(operator.index, shape)) for shape in inputs]
    except TypeError:
        raise InvalidArgumentError("inputs", "a list of shapes, such as [(1, 96, 27, 27)]", inputs) from None
    header.inputs.extend(type_to_wire(arrays[0].dtype, shape, "inputs") for shape in shapes)
    return _messages(header, arrays)


def _messages(header: layer_pb2.LayerHeader, arrays: Sequence[Array]) -> Iterator[layer_pb2.LoadLayerRequest]:
    yield layer_pb2.LoadLayerRequest(header=header)
    for array in arrays:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, data.size, CHUNK_BYTES):
            yield layer_pb2.LoadLayerRequest(chunk=data[start : start + CHUNK_BYTES].tobytes())


def info_from_wire(message: layer_pb2.Layer) -> LayerInfo:
    """Read the description of a layer from its message."""
    kernels = [type_from_wire(s.kernel, f"steps[{i}].kernel") for i, s in enumerate(message.steps)]
    return LayerInfo(
        message.name,
        message.version,
        tuple(spec_from_wire(s.spec) for s in message.steps),
        tuple(shape for _, shape in kernels),
        kernels[0][0],
        message.bytes,
        message.requests,
        message.failures,
        message.samples,
        message.seconds,
        {b.samples: b.runs for b in message.batches},
    )
