"""The steps of a layer by their shapes and dtypes: before their weights are there, and before any input is."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Step
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import layer_pb2, spec_pb2
from groupconv.wire.specs import spec_from_wire
from groupconv.wire.tensors import type_from_wire
from groupconv_server.coordinator.limits import Limits

Inputs = Sequence[tuple[tuple[int, ...], np.dtype]]
"""Shapes and dtypes of the inputs that a layer is to expect."""
MAX_INPUTS = 64


@dataclass(frozen=True)
class Shaped:
    """The shape and dtype of a tensor whose elements have not come yet."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize  # Python's integers do not overflow


def steps_of(header: layer_pb2.LayerHeader, limits: Limits) -> list[Step]:
    """The steps of a layer, checked as far as they can be without an input; tensors are `Shaped`.

    Raises:
        InvalidArgumentError: with the path of the field.
    """
    if not 1 <= len(header.steps) <= limits.steps:
        raise InvalidArgumentError("steps", f"1 to {limits.steps} steps", len(header.steps))
    steps = []
    for i, (message, spec) in enumerate(zip(header.steps, specs_of(header.steps), strict=True)):
        kernel = Shaped(*type_from_wire(message.kernel, f"steps[{i}].kernel"))
        bias = Shaped(*type_from_wire(message.bias, f"steps[{i}].bias")) if message.HasField("bias") else None
        try:
            types_of(kernel.dtype, kernel.dtype, None if bias is None else bias.dtype, spec.activation)
        except InvalidArgumentError as error:
            raise error.within(f"steps[{i}]") from None
        steps.append(Step(kernel, bias, spec))
    check_chain(steps)
    return steps


def inputs_of(header: layer_pb2.LayerHeader) -> Inputs:
    """The inputs that a layer is to expect.

    Raises:
        InvalidArgumentError: with the path of the field.
    """
    if len(header.inputs) > MAX_INPUTS:
        raise InvalidArgumentError("inputs", f"at most {MAX_INPUTS}", len(header.inputs))
    kinds = [type_from_wire(message, f"inputs[{i}]") for i, message in enumerate(header.inputs)]
    return [(shape, dtype) for dtype, shape in kinds]


def specs_of(steps: Iterable[spec_pb2.Step | spec_pb2.StepType | layer_pb2.LayerStep]) -> list[ConvSpec]:
    """The spec of every step.

    Raises:
        InvalidArgumentError: with the path of the field, as `steps[0].spec.stride`.
    """
    specs = []
    for i, step in enumerate(steps):
        try:
            specs.append(spec_from_wire(step.spec))
        except InvalidArgumentError as error:
            raise error.within(f"steps[{i}].spec") from None
    return specs


def check_chain(steps: Sequence[Step]) -> None:
    """Refuse steps that no input could satisfy: the input's spatial extents are not known yet, the rest is.

    Args:
        steps: kernels and biases are arrays, or anything with a shape.

    Raises:
        InvalidArgumentError: with the path of the field.
    """
    channels: int | None = None
    rank = len(steps[0].kernel.shape)
    for i, step in enumerate(steps):
        shape, groups = step.kernel.shape, step.spec.groups
        path = f"steps[{i}]"
        if len(shape) != rank or not 3 <= rank <= 5:
            raise InvalidArgumentError(f"{path}.kernel.shape", "3 to 5 dimensions, the same for each step", list(shape))
        if shape[0] % groups:
            raise InvalidArgumentError(f"{path}.spec.groups", f"a divisor of {shape[0]}", groups)
        into, outof = (shape[0], shape[1] * groups) if step.spec.transposed else (shape[1] * groups, shape[0])
        if channels not in (None, into):
            expected = f"{channels} input channels, the outputs of the step before"
            raise InvalidArgumentError(f"{path}.kernel.shape", expected, into)
        if step.bias is not None and step.bias.shape != (outof,):
            raise InvalidArgumentError(f"{path}.bias.shape", f"[{outof}], the output channels", list(step.bias.shape))
        channels = outof
    input_types(steps)


def input_types(steps: Sequence[Step]) -> dict[np.dtype, np.dtype]:
    """The dtypes of input that steps accept, that of the first kernel first, each with the dtype of their output.

    Args:
        steps: kernels are arrays, or anything with a dtype.

    Raises:
        InvalidArgumentError: there is none.

    Example:
        >>> [str(x) for x in input_types([Step(np.ones((1, 1, 1), np.float32))])]
        ['float32', 'int8', 'uint8', 'int32']
    """
    types = {}
    kernels = [step.kernel.dtype for step in steps]
    for x in dict.fromkeys((kernels[0], *DTYPES.values())):
        y = x
        with suppress(InvalidArgumentError):
            for kernel in kernels:
                y = types_of(y, kernel).output
            types[x] = y
    if not types:
        raise InvalidArgumentError("steps", "kernels of dtypes that can follow one another", [str(k) for k in kernels])
    return types
