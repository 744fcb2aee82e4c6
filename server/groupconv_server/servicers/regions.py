"""The tensors of messages that lie in memory of the client's, on the host or on a device."""

import functools
import math
from collections.abc import Iterable
from typing import cast

import grpc
import numpy as np

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv.v1 import convolution_pb2, tensor_pb2
from groupconv.wire.requests import Array
from groupconv.wire.tensors import from_wire, message_with, placed, type_from_wire
from groupconv_server.coordinator.limits import Limits
from groupconv_server.memory.cuda_memory import CudaMemory, DeviceRegion, is_device_region, overlap
from groupconv_server.memory.shared_memory import OFF, SharedMemory


class ClientMemory:
    """The memory that clients of this service's own API share with it.

    Args:
        host: None where the operator has not allowed it.
        device: likewise.
    """

    def __init__(self, host: SharedMemory | None = None, device: CudaMemory | None = None) -> None:
        self._host, self._device = host, device

    @property
    def host(self) -> SharedMemory:
        """Shared memory.

        Raises:
            FailedPreconditionError: it is not allowed.
        """
        if self._host is None:
            raise FailedPreconditionError(OFF)
        return self._host

    @property
    def device(self) -> CudaMemory:
        """Memory of GPUs; likewise."""
        if self._device is None:
            raise FailedPreconditionError(OFF)
        return self._device


class RequestTensors:
    """Where the tensors of one request are.

    Args:
        memory: of clients.
        context: of the request, whose connection the regions it names belong to.
    """

    def __init__(self, memory: ClientMemory, context: grpc.ServicerContext) -> None:
        self._memory, self._context = memory, context
        self._peer: str | None = None
        self._target: DeviceRegion | None = None  # as long as the request runs, though it be unregistered meanwhile

    def tensor(
        self,
        message: tensor_pb2.Tensor,
        field: str,
        data: memoryview | None = None,
        *,
        in_place: bool = False,
        batch: bool = False,
    ) -> Array:
        """A tensor of the request: in place, or from the message; arguments and errors as of `from_wire`.

        Args:
            message: as there.
            field: likewise.
            data: likewise.
            batch: likewise.
            in_place: whether a tensor on a device may stay there, if this process computes there.

        Raises:
            NotFoundError: no such region.
            FailedPreconditionError: shared memory is not allowed.
        """
        if not message.HasField("place"):
            return from_wire(message, field, data, batch=batch)
        if data is not None or message.data:
            raise InvalidArgumentError(f"{field}.place", "none beside data", "both")
        place = message.place
        if not is_device_region(place.region):
            return from_wire(message, field, self._view(place, f"{field}.place"), batch=batch)
        dtype, shape = type_from_wire(message, field, batch=batch)
        expected = math.prod(shape) * dtype.itemsize
        if place.byte_size != expected:
            raise InvalidArgumentError(
                f"{field}.place.byte_size", f"{expected} bytes, as the shape has", place.byte_size
            )
        self._region(place, f"{field}.place")
        memory = self._memory.device
        read = memory.source if in_place else memory.read
        return cast("Array", read(place.region, place.offset, dtype, shape))  # as far as a run asks

    def room(self, place: tensor_pb2.Place, dtype: np.dtype, shape: tuple[int, ...]) -> Array | None:
        """The place of an output as an array to be filled; None if it is too small.

        On a device that this process does not compute on it is an ordinary array, which `store` copies there.

        Raises:
            InvalidArgumentError: a place outside the region, or not aligned.
            NotFoundError, FailedPreconditionError: as `tensor`.
        """
        size = math.prod(shape) * dtype.itemsize
        if is_device_region(place.region):
            self._target = self._region(place, "output_place")
            if place.byte_size < size:
                return None
            there = self._memory.device.room(place.region, place.offset, dtype, shape)
            return np.empty(shape, dtype) if there is None else cast("Array", there)
        view = self._view(place, "output_place")
        if len(view) < size:
            return None
        y = np.frombuffer(view[:size], dtype).reshape(shape)
        if not y.flags.aligned:
            raise InvalidArgumentError("output_place.offset", f"a multiple of {dtype.itemsize}", place.offset)
        return y

    def store(self, place: tensor_pb2.Place, y: Array) -> None:
        """Copy an output to its place on a device, as `room` found it."""
        assert self._target is not None
        self._target.memory.write(place.offset, y)

    def _view(self, place: tensor_pb2.Place, field: str) -> memoryview:
        memory = self._memory.host
        if self._peer is None:
            self._peer = self._context.peer()
        try:
            return memory.view(place.region, place.offset, place.byte_size, owner=self._peer)
        except InvalidArgumentError as error:
            raise _within(field, error) from None

    def _region(self, place: tensor_pb2.Place, field: str) -> DeviceRegion:
        """The region of a device that a place is a part of."""
        try:
            region = self._memory.device.part(place.region, place.offset, place.byte_size)
        except InvalidArgumentError as error:
            raise _within(field, error) from None
        region.owner = self._context.peer()
        return region


class RequestOutput:
    """The output of a request that says where it is wanted: `allocate` makes the array, `message` is then the answer.

    Args:
        place: in the client's memory.
        places: of the request.
        read: what is read while the output is written.
        limits: for an output that the place is too small for, which goes into the message.
    """

    def __init__(self, place: tensor_pb2.Place, places: RequestTensors, read: Iterable[Array], limits: Limits) -> None:
        self._place, self._places, self._read, self._limits = place, places, read, limits
        self._answer = b""
        self._inside: Array | None = None
        self._copied: Array | None = None

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """The place, or an array that is copied there or into the message.

        Raises:
            InvalidArgumentError: a place that an input lies in, too; otherwise as `RequestTensors.room`.
            ResourceExhaustedError: too small a place, and too large an output for a message.
        """
        y = self._places.room(self._place, dtype, shape)
        if y is None:
            self._limits.check_message(math.prod(shape) * dtype.itemsize)
            self._inside = y = np.empty(shape, dtype)
            return y
        self._answer = _output_at(dtype, shape, self._place.region, self._place.offset)
        shared = any(overlap(y, x) for x in self._read)
        if is_device_region(self._place.region):
            y = np.empty(shape, dtype) if shared else y
            self._copied = y if isinstance(y, np.ndarray) else None
        elif shared:
            raise InvalidArgumentError("output_place", "memory that no input lies in", "an input's")
        return y

    def message(self, rest: bytes) -> bytes:
        """The answer on the wire; `rest` are the fields beside the output."""
        if self._copied is not None:
            self._places.store(self._place, self._copied)
        if self._inside is None:
            return self._answer + rest
        message, room = message_with(1, self._inside.dtype, self._inside.shape, rest, "output")
        room[...] = self._inside
        return message


@functools.lru_cache(maxsize=1024)
def _output_at(dtype: np.dtype, shape: tuple[int, ...], region: str, offset: int) -> bytes:
    """The field of an answer that says where its output lies."""
    return convolution_pb2.ConvolveResponse(output=placed(dtype, shape, region, offset)).SerializeToString()


def _within(field: str, error: InvalidArgumentError) -> InvalidArgumentError:
    """An error of a region as one of a place."""
    part = error.field.removeprefix("shared_memory_")
    return InvalidArgumentError(f"{field}.{part}", error.expected, error.got)
