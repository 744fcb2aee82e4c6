"""The tensors of our own messages that are in a client's memory: `Tensor.place` and `ConvolveRequest.output_place`."""

import functools
import math
from collections.abc import Iterable

import grpc
import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import convolution_pb2, tensor_pb2
from groupconv.wire.codec import message_with
from groupconv.wire.tensors import from_wire, tensor_in_region, type_from_wire
from groupconv_server.coordinator.limits import Limits
from groupconv_server.memory.client_memory import ClientMemory, RegionOutput, RegionReference

LEAST_AXES = 3
"""Fewest axes of a tensor that may have channels last: batch, channels and one spatial axis."""


class RequestTensors:
    """Reads the tensors of one request, from its message or from the client's memory.

    Args:
        memory: of the server's clients.
        context: of the request. Its connection becomes the owner of the regions that the request names.
    """

    def __init__(self, memory: ClientMemory, context: grpc.ServicerContext) -> None:
        self._memory, self._context = memory, context

    def tensor(
        self,
        message: tensor_pb2.Tensor,
        field: str,
        data: memoryview | None = None,
        *,
        in_place: bool = False,
        batch: bool = False,
    ) -> Array:
        """One tensor of the request.

        Args:
            message: the tensor.
            field: its name in errors.
            data: its bytes, where the codec took them out of the message.
            in_place: whether a tensor on a device may stay there, if this process computes there.
            batch: whether the first axis is a batch, which may be empty.

        Raises:
            InvalidArgumentError: as `from_wire`, or the place is outside its region or of another size.
            NotFoundError: there is no such region.
            FailedPreconditionError: shared memory is not allowed.
        """
        if not message.HasField("place"):
            return from_wire(message, field, data, batch=batch)
        if data is not None or message.data:
            raise InvalidArgumentError(f"{field}.place", "none beside data", "both")
        dtype, shape = type_from_wire(message, field, batch=batch)
        size = math.prod(shape) * dtype.itemsize
        at = _reference(message.place)
        if at.size != size:
            raise InvalidArgumentError(f"{field}.place.byte_size", f"{size} bytes for shape {list(shape)}", at.size)
        if at.channels_last and len(shape) < LEAST_AXES:
            raise InvalidArgumentError(f"{field}.place.channels_last", f"{LEAST_AXES} axes or more", len(shape))
        try:
            return self._memory.array(at, dtype, shape, owner=self._context.peer(), in_place=in_place)
        except InvalidArgumentError as error:
            raise _of_place(f"{field}.place", error) from None

    def output(
        self, place: tensor_pb2.Place, dtype: np.dtype, shape: tuple[int, ...], inputs: Iterable[Array]
    ) -> RegionOutput | None:
        """An output in the client's memory; None if the place is too small for it.

        Raises:
            InvalidArgumentError: the place is outside its region, or on the host and not aligned or an input's.
            NotFoundError, FailedPreconditionError: as `tensor`.
        """
        at = _reference(place)
        try:
            output = self._memory.output(at, dtype, shape, inputs, owner=self._context.peer())
        except InvalidArgumentError as error:
            raise _of_place("output_place", error) from None
        in_place = not at.channels_last and not self._memory.on_device(at.region)
        if output is not None and output.copy is not None and in_place:
            if at.offset % dtype.alignment:
                raise InvalidArgumentError("output_place.offset", f"a multiple of {dtype.alignment}", at.offset)
            raise InvalidArgumentError("output_place", "memory that no input overlaps", "an input's memory")
        return output


class RequestOutput:
    """The output of a request with an `output_place`: `allocate` makes the array, then `message` makes the answer.

    Args:
        place: where the client wants the output.
        tensors: of the request.
        inputs: arrays that are read while the output is written.
        limits: of a message. An output that the place is too small for goes into the message.
    """

    def __init__(
        self, place: tensor_pb2.Place, tensors: RequestTensors, inputs: Iterable[Array], limits: Limits
    ) -> None:
        self._place, self._tensors, self._inputs, self._limits = place, tensors, inputs, limits
        self._output: RegionOutput | None = None
        self._in_message = np.empty(0)

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """The array to be filled.

        Raises:
            InvalidArgumentError, NotFoundError, FailedPreconditionError: as `RequestTensors.output`.
            ResourceExhaustedError: the output fits neither the place nor a message.
        """
        self._output = self._tensors.output(self._place, dtype, shape, self._inputs)
        if self._output is not None:
            return self._output.array
        self._limits.check_message(math.prod(shape) * dtype.itemsize)
        self._in_message = np.empty(shape, dtype)
        return self._in_message

    def message(self, rest: bytes) -> bytes:
        """The answer on the wire; `rest` has the fields beside the output."""
        if self._output is not None:
            self._output.store()
            y = self._output.array
            return _output_at(y.dtype, tuple(y.shape), _reference(self._place)) + rest
        message, y = message_with(1, self._in_message.dtype, self._in_message.shape, rest, "output")
        y[...] = self._in_message
        return message


@functools.lru_cache(maxsize=1024)
def _output_at(dtype: np.dtype, shape: tuple[int, ...], at: RegionReference) -> bytes:
    """The field of an answer that refers to its output in a region."""
    tensor = tensor_in_region(dtype, shape, at.region, at.offset, channels_last=at.channels_last)
    return convolution_pb2.ConvolveResponse(output=tensor).SerializeToString()


def _reference(place: tensor_pb2.Place) -> RegionReference:
    return RegionReference(place.region, place.offset, place.byte_size, place.channels_last)


def _of_place(field: str, error: InvalidArgumentError) -> InvalidArgumentError:
    """An error about a region, with the field's name in our own messages."""
    part = error.field.removeprefix("shared_memory_")
    return InvalidArgumentError(f"{field}.{part}", error.expected, error.got)
