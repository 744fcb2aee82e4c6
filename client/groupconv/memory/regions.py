"""Where the tensors of a request lie in the client's memory, as requests and answers say it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.spec import ConvSpec
from groupconv.device import DeviceArray
from groupconv.errors import DataLossError, GroupconvError
from groupconv.memory.arena import Segment, Slot
from groupconv.transport.exchange import Exchange, Request
from groupconv.v1 import convolution_pb2, memory_pb2, tensor_pb2
from groupconv.wire.requests import Answer, Step, geometries, read_answer, taken_apart
from groupconv.wire.tensors import from_wire, placed, type_from_wire

BRIEF = 256
"""Bytes of an answer that is remembered; one with a report is longer, and another each time."""
_UNREGISTER = "/groupconv.v1.MemoryService/UnregisterMemory"


@dataclass(slots=True)
class Used:
    """What one request uses.

    Attributes:
        segments: of shared memory.
        slots: in them, of copies: until the answer is there.
        exports: regions of device memory.
    """

    segments: list[Segment] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    exports: list[str] = field(default_factory=list)


class Target(NamedTuple):
    """Where an output is wanted.

    Attributes:
        memory: itself.
        region, offset, size: as the server knows it.
    """

    memory: Slot | DeviceArray
    region: str
    offset: int
    size: int

    def field(self) -> bytes:
        """The field of a request that says so."""
        return _output_at(self.region, self.offset, self.size)


@functools.lru_cache(maxsize=1024)
def input_at(dtype: np.dtype, shape: tuple[int, ...], region: str, offset: int) -> bytes:
    """The field of a request that says where its input lies."""
    return convolution_pb2.ConvolveRequest(input=placed(dtype, shape, region, offset)).SerializeToString()


@functools.lru_cache(maxsize=1024)
def _output_at(region: str, offset: int, size: int) -> bytes:
    place = tensor_pb2.Place(region=region, offset=offset, byte_size=size)
    return convolution_pb2.ConvolveRequest(output_place=place).SerializeToString()


_said = functools.lru_cache(maxsize=1024)(lambda raw: taken_apart(raw)[0])
"""A short answer, without the output's bytes: those of one layer are mostly the same."""


def answer_of(raw: bytes, target: Target | None) -> Answer:
    """The answer with the bytes of its output, wherever they are; on a device they are told by a `DeviceArray`.

    Raises:
        DataLossError: no answer to what was asked.
    """
    response = _said(raw) if len(raw) <= BRIEF else taken_apart(raw)[0]
    if not response.output.HasField("place"):
        return read_answer(raw)
    place = response.output.place
    if target is None or (place.region, place.offset) != (target.region, target.offset):
        raise DataLossError("the server answered with an output in memory that it was not given")
    if isinstance(target.memory, Slot):
        return response, from_wire(response.output, "output", target.memory.bytes().data[: place.byte_size])
    dtype, shape = type_from_wire(response.output, "output")
    return response, replace(target.memory, dtype=dtype, shape=shape)  # type: ignore[return-value] # for `result_of`


def letting_go(region: str) -> Request:
    """What tells the server that a region can go."""
    return Request(_UNREGISTER, memory_pb2.UnregisterMemoryRequest(region=region).SerializeToString())


def let_go(region: str) -> Exchange[None]:
    """Tell the server so; if it does not hear, it lets it go by itself in time."""
    try:
        yield letting_go(region)
    except GroupconvError:
        return


@functools.lru_cache(maxsize=1024)
def output_type(
    shape: tuple[int, ...],
    dtype: np.dtype,
    specs: tuple[ConvSpec, ...],
    kernel_shapes: tuple[tuple[int, ...], ...],
    kernel_dtypes: tuple[np.dtype, ...],
) -> tuple[np.dtype, int]:
    """Dtype and bytes of the last output of steps on an input.

    Raises:
        InvalidArgumentError: steps that cannot be.

    Example:
        >>> output_type((1, 1, 9), np.dtype("int8"), (ConvSpec(),), ((2, 1, 3),), (np.dtype("int8"),))
        (dtype('int32'), 56)
    """
    last = geometries(specs, shape, kernel_shapes)[-1]
    for kernel in kernel_dtypes:
        dtype = types_of(dtype, kernel).output
    return dtype, int(np.prod(last.output_shape, dtype=object)) * dtype.itemsize


def output_of(shape: tuple[int, ...], dtype: np.dtype, steps: Sequence[Step]) -> tuple[np.dtype, int]:
    """The same of steps with arrays."""
    specs, kernels = tuple(s.spec for s in steps), [s.kernel for s in steps]
    return output_type(shape, dtype, specs, tuple(k.shape for k in kernels), tuple(k.dtype for k in kernels))
