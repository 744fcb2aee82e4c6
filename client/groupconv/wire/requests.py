"""What the SDK asks for: arrays and specs as steps, steps as messages. Shared by the blocking and the aio client."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from groupconv.convolution.dtypes import DTYPES, is_float, known
from groupconv.convolution.geometry import Geometry, resolve
from groupconv.convolution.plan import Report
from groupconv.convolution.spec import ConvSpec
from groupconv.device import DeviceArray
from groupconv.errors import DataLossError, InvalidArgumentError
from groupconv.v1 import convolution_pb2, spec_pb2
from groupconv.wire.codec import Forms, offset, scan, writable
from groupconv.wire.specs import NO_REPORT, report_from_wire, spec_to_wire
from groupconv.wire.tensors import as_array, from_wire, message_with, to_wire, type_to_wire

Array = NDArray[Any]
CONVOLVE = "/groupconv.v1.ConvolutionService/Convolve"


@dataclass(frozen=True)
class Step:
    """One convolution with its kernel. A request runs one or more of them in order.

    Attributes:
        kernel: (M, C/g, *kernel), transposed (C, M/g, *kernel).
        bias: (M,) or None.
        spec: the convolution.
    """

    kernel: Any
    bias: Any = None
    spec: ConvSpec = field(default_factory=ConvSpec)


@dataclass(frozen=True)
class Result:
    """An answer and how it was made.

    Attributes:
        output: (N, M, *spatial).
        report: the plan, each shard's worker and times, the times of each phase.
    """

    output: Array
    report: Report


def prepare(x: Any, steps: Sequence[Step]) -> tuple[Array, list[Step], bool]:
    """Arrays ready to send, checked against their shapes here, before anything travels.

    Kernels and biases take the input's dtype where that is a float, so lists and float64 arrays can be given;
    Python integers become int32. An input without batch axis gets one.

    Returns:
        The input (N, C, *spatial), the steps with arrays, and whether the batch axis was added.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    if not steps:
        raise InvalidArgumentError("steps", "at least one step", 0)
    array = travelling("input", as_array(x), None)
    unbatched = array.ndim == as_array(steps[0].kernel).ndim - 1
    if unbatched:
        array = array.reshape((1, *array.shape))
    ready = ready_steps(steps, array.dtype)
    geometries([s.spec for s in ready], array.shape, [s.kernel.shape for s in ready])
    return array, ready, unbatched


def ready_steps(steps: Sequence[Step], dtype: np.dtype) -> list[Step]:
    """Steps with arrays that travel, for an input of `dtype`.

    Raises:
        InvalidArgumentError: a kernel or bias of a dtype that does not travel.
    """
    ready = []
    for i, step in enumerate(steps):
        kernel = travelling(f"steps[{i}].kernel", as_array(step.kernel), dtype)
        bias = None if step.bias is None else as_array(step.bias)
        if bias is not None:
            wanted = dtype if is_float(dtype) else kernel.dtype
            bias = travelling(f"steps[{i}].bias", bias, wanted if is_float(wanted) else None)
        ready.append(Step(kernel, bias, step.spec))
    return ready


def geometries(
    specs: Sequence[ConvSpec], input_shape: Sequence[int], kernel_shapes: Sequence[Sequence[int]]
) -> list[Geometry]:
    """The geometry of each step, the output of one being the input of the next.

    Raises:
        InvalidArgumentError: with the path of the field, as `steps[1].spec.stride`.
    """
    found: list[Geometry] = []
    shape = tuple(input_shape)
    for i, (spec, kernel_shape) in enumerate(zip(specs, kernel_shapes, strict=True)):
        try:
            found.append(resolve(spec, shape, kernel_shape))
        except InvalidArgumentError as error:
            raise _located(error, i) from None
        shape = found[-1].output_shape
    return found


def convolve_request(x: Array, steps: Iterable[Step], *, allow_reordering: bool = False, report: bool = True) -> bytes:
    """A ConvolveRequest on the wire, of what `prepare` made ready; the input is copied once."""
    rest = convolution_pb2.ConvolveRequest(
        allow_reordering=allow_reordering, steps=steps_to_wire(steps), without_report=not report
    )
    return with_input(x, rest.SerializeToString())


def with_input(x: Array, rest: bytes) -> bytes:
    """A ConvolveRequest on the wire: the input, and the other fields."""
    message, room = message_with(1, x.dtype, x.shape, rest, "input")
    room[...] = x
    return message


def layer_fields(name: str, report: bool, allow_reordering: bool) -> bytes:
    """The fields beside the input of a ConvolveRequest for a resident layer, on the wire."""
    return convolution_pb2.ConvolveRequest(
        layer=name, allow_reordering=allow_reordering, without_report=not report
    ).SerializeToString()


def steps_to_wire(steps: Iterable[Step]) -> list[spec_pb2.Step]:
    """The messages of steps with arrays."""
    return [
        spec_pb2.Step(
            kernel=to_wire(s.kernel, f"steps[{i}].kernel"),
            bias=None if s.bias is None else to_wire(s.bias, f"steps[{i}].bias"),
            spec=spec_to_wire(s.spec),
        )
        for i, s in enumerate(steps)
    ]


def plan_request(
    input_shape: Sequence[int],
    kernel_shapes: Sequence[Sequence[int]],
    specs: Sequence[ConvSpec],
    dtype: Any,
    *,
    allow_reordering: bool = False,
) -> convolution_pb2.PlanConvolutionRequest:
    """The message that asks for a plan.

    Raises:
        InvalidArgumentError: shapes or a dtype that cannot be.
    """
    geometries(specs, input_shape, kernel_shapes)
    of = DTYPES.get(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    if of is None:
        raise InvalidArgumentError("dtype", f"one of {', '.join(DTYPES)}", dtype)
    known("dtype", of)
    return convolution_pb2.PlanConvolutionRequest(
        allow_reordering=allow_reordering,
        input=type_to_wire(of, tuple(input_shape)),
        steps=[
            spec_pb2.StepType(kernel=type_to_wire(of, tuple(shape)), spec=spec_to_wire(spec))
            for shape, spec in zip(kernel_shapes, specs, strict=True)
        ],
    )


Answer = tuple[convolution_pb2.ConvolveResponse, Array]
"""A response, and its output in an array of the reader's own, where gRPC put it if it lies aligned."""


def read_answer(raw: bytes) -> Answer:
    """A ConvolveResponse from the wire, with its output in it.

    Raises:
        DataLossError: it is none.
        InvalidArgumentError: of the output, as `from_wire`.
    """
    known = _answers.find(raw)
    if known is not None:
        (response, dtype, shape), start = known
        return response, writable(raw, start, dtype, shape)  # nobody else has the message
    response, payload = taken_apart(raw)
    y = from_wire(response.output, "output", payload, batch=True)
    if payload is None or not np.may_share_memory(y, payload):
        return response, y if y.flags.writeable else y.copy()
    if not response.HasField("plan"):  # each report is another
        _answers.keep(raw, payload, (response, y.dtype, y.shape))
    return response, writable(raw, offset(raw, payload), y.dtype, y.shape)


def taken_apart(raw: bytes) -> tuple[convolution_pb2.ConvolveResponse, memoryview | None]:
    """A response without its output's bytes, and those where they came.

    Raises:
        DataLossError: it is none.
    """
    small, payload = scan(raw, (1, 3))
    try:
        return convolution_pb2.ConvolveResponse.FromString(small), payload
    except DecodeError:
        raise DataLossError(f"the server answered {len(raw)} bytes that are no ConvolveResponse") from None


_answers: Forms[tuple[convolution_pb2.ConvolveResponse, np.dtype, tuple[int, ...]]] = Forms()


def result_of(answer: Answer, *, unbatched: bool, out: Array | DeviceArray | None) -> Result:
    """The answer as it came, or in `out`, where on a device it may be already; and the report.

    Raises:
        InvalidArgumentError: an `out` of another shape or dtype.
    """
    response, y = answer
    if unbatched:
        y = y.reshape(y.shape[1:])
    report = report_from_wire(response) if response.HasField("plan") else NO_REPORT
    if out is None:
        return Result(y, report)
    if out.shape != y.shape or out.dtype != y.dtype:
        raise InvalidArgumentError("out", f"shape {y.shape} and dtype {y.dtype}", f"{out.shape}, {out.dtype}")
    if not isinstance(out, DeviceArray):
        out[...] = y
        return Result(out, report)
    if not isinstance(y, DeviceArray):
        out.fill(y)
    return Result(out.owner, report)


def travelling(name: str, array: Array, like: np.dtype | None) -> Array:
    """`array` in a dtype that travels: the input's where it is a float; Python's integers as int32."""
    if like is not None and is_float(like) and array.dtype != like:
        return array.astype(like)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in DTYPES.values() or array.dtype.kind not in "iub":
        known(f"{name}.dtype", array.dtype)
        return array
    if array.size and (array.min() < -(2**31) or array.max() >= 2**31):
        raise InvalidArgumentError(name, "integers that fit int32", str(array.dtype))
    return array.astype(np.int32)


def _located(error: InvalidArgumentError, step: int) -> InvalidArgumentError:
    if error.field.startswith("input"):
        return error if step == 0 else error.within(f"steps[{step}]")
    path = f"steps[{step}]" if error.field.startswith(("kernel", "bias")) else f"steps[{step}].spec"
    return error.within(path)
