"""Regions of a client's memory in requests and answers: the server reads inputs there and writes outputs there."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.steps import Step, geometries
from groupconv.errors import (
    DataLossError,
    FailedPreconditionError,
    GroupconvError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnimplementedError,
)
from groupconv.gpu.arrays import DeviceArray, Tensor
from groupconv.memory.arena import Block, Segment
from groupconv.transport.exchange import Exchange, Request
from groupconv.v1 import convolution_pb2, memory_pb2, tensor_pb2
from groupconv.wire.requests import Answer, read_answer, split_answer
from groupconv.wire.tensors import from_wire, tensor_in_region, type_from_wire

_UNREGISTER = "/groupconv.v1.MemoryService/UnregisterMemory"
NOTHING_WRITTEN = (
    InvalidArgumentError,
    NotFoundError,
    FailedPreconditionError,
    UnauthenticatedError,
    PermissionDeniedError,
    UnimplementedError,
)
"""Errors after which the server has written nothing and never will."""


@dataclass(slots=True)
class RequestMemory:
    """The memory that one request uses.

    Attributes:
        segments: shared-memory segments that the request refers to.
        blocks: blocks with copies of inputs; they must live until the answer arrives.
        exports: regions of device memory that the request refers to.
    """

    segments: list[Segment] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    exports: list[str] = field(default_factory=list)


class OutputMemory(NamedTuple):
    """Memory that the server writes an output to.

    Attributes:
        memory: in this process.
        region, offset, size: the server's reference to it; the numbers are bytes.
    """

    memory: Block | DeviceArray
    region: str
    offset: int
    size: int

    def field(self) -> bytes:
        """The field of a ConvolveRequest that refers to this memory."""
        last = isinstance(self.memory, DeviceArray) and self.memory.innermost is not None
        place = tensor_pb2.Place(region=self.region, offset=self.offset, byte_size=self.size, channels_last=last)
        return convolution_pb2.ConvolveRequest(output_place=place).SerializeToString()


def input_field(x: Tensor, region: str, offset: int) -> bytes:
    """The field of a ConvolveRequest that refers to its input."""
    last = isinstance(x, DeviceArray) and x.innermost is not None
    tensor = tensor_in_region(x.dtype, x.shape, region, offset, channels_last=last)
    return convolution_pb2.ConvolveRequest(input=tensor).SerializeToString()


def answer_in(raw: bytes, target: OutputMemory | None) -> Answer:
    """Decode an answer whose output is in the message or in memory of this process.

    Args:
        raw: the answer on the wire.
        target: the memory that the request offered for the output.

    Returns:
        The response and its output; the output is a `DeviceArray` if the server wrote to a device.

    Raises:
        DataLossError: the bytes are not an answer, or the output is in memory that the request did not offer.
    """
    response = split_answer(raw)[0]
    if not response.output.HasField("place"):
        return read_answer(raw)
    place = response.output.place
    if target is None or (place.region, place.offset) != (target.region, target.offset):
        raise DataLossError("the server wrote the output to memory that this client did not offer")
    if isinstance(target.memory, Block):
        return response, from_wire(response.output, "output", target.memory.bytes().data[: place.byte_size])
    dtype, shape = type_from_wire(response.output, "output")
    return response, replace(target.memory, dtype=dtype, shape=shape)


def unregister_request(region: str) -> Request:
    """The request that tells the server to release a region."""
    return Request(_UNREGISTER, memory_pb2.UnregisterMemoryRequest(region=region).SerializeToString())


def unregister(region: str) -> Exchange[None]:
    """Tell the server to release a region. Errors are ignored: the server releases unused regions later by itself."""
    try:
        yield unregister_request(region)
    except GroupconvError:
        return


def output_of(shape: tuple[int, ...], dtype: np.dtype, steps: Sequence[Step]) -> tuple[np.dtype, int]:
    """Dtype and bytes of the last output of steps.

    Args:
        shape: (N, C, *spatial), of the input.
        dtype: of the input.
        steps: with arrays.

    Raises:
        InvalidArgumentError: shapes or dtypes do not fit.

    Example:
        >>> from groupconv.convolution.spec import ConvSpec
        >>> output_of((1, 1, 9), np.dtype("int8"), [Step(np.ones((2, 1, 3), "int8"), None, ConvSpec())])
        (dtype('int32'), 56)
    """
    last = geometries([s.spec for s in steps], shape, [s.kernel.shape for s in steps])[-1]
    for step in steps:
        dtype = types_of(dtype, step.kernel.dtype).output
    return dtype, int(np.prod(last.output_shape, dtype=object)) * dtype.itemsize
