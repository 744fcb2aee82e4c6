"""The steps of a layer by their shapes, before their weights are there."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from groupconv.dtypes import types_of
from groupconv.errors import InvalidArgumentError
from groupconv.requests import Step
from groupconv.spec import ConvSpec
from groupconv.tensors import type_from_wire
from groupconv.v1 import layer_pb2, spec_pb2
from groupconv.wire import spec_from_wire
from groupconv_server.layers import check_chain
from groupconv_server.limits import Limits

Inputs = Sequence[tuple[tuple[int, ...], np.dtype]]
"""Shapes and dtypes of the inputs that a layer is to expect."""
MAX_INPUTS = 64


@dataclass(frozen=True)
class Shaped:
    """A tensor that is still on its way."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of its elements."""
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
