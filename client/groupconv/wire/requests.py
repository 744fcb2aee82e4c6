"""Messages of ConvolutionService: requests to bytes, answers to arrays."""

from collections.abc import Iterable

import numpy as np
from google.protobuf.message import DecodeError

from groupconv.arguments import fill
from groupconv.convolution.steps import Array, Result, Step
from groupconv.errors import DataLossError
from groupconv.gpu.arrays import DeviceArray, Tensor
from groupconv.moved import moved_names
from groupconv.v1 import convolution_pb2, spec_pb2
from groupconv.wire.codec import DecodeCache, message_with, offset, writable
from groupconv.wire.plans import NO_REPORT, report_from_wire
from groupconv.wire.scan import scan
from groupconv.wire.specs import spec_to_wire
from groupconv.wire.tensors import from_wire, to_wire

CONVOLVE = "/groupconv.v1.ConvolutionService/Convolve"


def convolve_request(
    x: Array, steps: Iterable[Step], *, allow_reordering: bool = False, report: bool = True, cut: str = ""
) -> bytes:
    """A ConvolveRequest on the wire; the input is copied once.

    Args:
        x: (N, C, *spatial), from `prepare`.
        steps: from `prepare`.
        allow_reordering: whether sums over input channels may be split between workers.
        report: whether the server reports how it ran the request.
        cut: that was requested, by its name; "" leaves it to the planner.
    """
    rest = convolution_pb2.ConvolveRequest(steps=steps_to_wire(steps)).SerializeToString()
    return with_input(x, rest + request_fields("", report, allow_reordering, cut))


def with_input(x: Array, rest: bytes) -> bytes:
    """A ConvolveRequest on the wire: the input, copied once, and the other fields `rest`."""
    message, elements = message_with(1, x.dtype, x.shape, rest, "input")
    elements[...] = x
    return message


def request_fields(layer: str, report: bool, allow_reordering: bool, cut: str = "") -> bytes:
    """The fields of a ConvolveRequest that are not tensors, on the wire; `layer` is "" for steps."""
    return convolution_pb2.ConvolveRequest(
        layer=layer, allow_reordering=allow_reordering, without_report=not report, cut=cut
    ).SerializeToString()


def steps_to_wire(steps: Iterable[Step]) -> list[spec_pb2.Step]:
    """Steps with arrays as messages."""
    return [
        spec_pb2.Step(
            kernel=to_wire(s.kernel, f"steps[{i}].kernel"),
            bias=None if s.bias is None else to_wire(s.bias, f"steps[{i}].bias"),
            spec=spec_to_wire(s.spec),
        )
        for i, s in enumerate(steps)
    ]


Answer = tuple[convolution_pb2.ConvolveResponse, Tensor]
"""A response, and its output. The output is a view of the message if it is aligned there."""


def read_answer(raw: bytes) -> Answer:
    """Decode a ConvolveResponse whose output is in the message. The output is writable.

    Raises:
        DataLossError: the bytes are not a ConvolveResponse.
        InvalidArgumentError: the output is malformed, see `from_wire`.
    """
    cached = _answers.get(raw)
    if cached is not None:
        (response, dtype, shape), start = cached
        return response, writable(raw, start, dtype, shape)  # nothing else refers to the message
    response, payload = split_answer(raw)
    y = from_wire(response.output, "output", payload, batch=True)
    if payload is None or not np.may_share_memory(y, payload):
        return response, y if y.flags.writeable else y.copy()
    if not response.HasField("plan"):  # reports differ from answer to answer
        _answers.put(raw, payload, (response, y.dtype, y.shape))
    return response, writable(raw, offset(raw, payload), y.dtype, y.shape)


def split_answer(raw: bytes) -> tuple[convolution_pb2.ConvolveResponse, memoryview | None]:
    """A ConvolveResponse without its output's bytes, and those bytes as a view of `raw`.

    Raises:
        DataLossError: the bytes are not a ConvolveResponse.
    """
    small, payload = scan(raw, (1, 3))
    try:
        return convolution_pb2.ConvolveResponse.FromString(small), payload
    except DecodeError:
        raise DataLossError(f"the server's answer of {len(raw)} bytes is not a ConvolveResponse") from None


_answers: DecodeCache[tuple[convolution_pb2.ConvolveResponse, np.dtype, tuple[int, ...]]] = DecodeCache()
"""Saves 21 µs of a small request's 485."""


def result_of(answer: Answer, *, unbatched: bool, out: Tensor | None) -> Result:
    """Output and report of an answer.

    Args:
        answer: from `read_answer`.
        unbatched: whether to remove the batch axis.
        out: the array to `fill`; None returns the answer's own array.

    Raises:
        InvalidArgumentError: `out` has another shape or dtype.
    """
    response, y = answer
    if unbatched:
        y = y.reshape(y.shape[1:])
    report = report_from_wire(response) if response.HasField("plan") else NO_REPORT
    if out is None:
        assert not isinstance(y, DeviceArray)  # the server writes to a device only if `out` is there
        return Result(y, report)
    return Result(fill(out, y), report)


__getattr__ = moved_names(__name__, dict.fromkeys(("prepare", "ready_steps"), "groupconv.arguments"))
