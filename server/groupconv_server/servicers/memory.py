"""MemoryService: RegisterMemory and UnregisterMemory; and the tensors of messages that lie in such memory."""

import functools
import math
from collections.abc import Iterable

import grpc
import numpy as np

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv.requests import Array
from groupconv.tensors import from_wire, message_with, placed
from groupconv.v1 import convolution_pb2, memory_pb2, memory_pb2_grpc, tensor_pb2
from groupconv_server.limits import Limits
from groupconv_server.servicers.errors import answers_errors
from groupconv_server.shared_memory import OFF, SharedMemory


class MemoryServicer(memory_pb2_grpc.MemoryServiceServicer):
    """Takes and lets go the memory of clients.

    Args:
        memory: None where the operator has not allowed it.
    """

    def __init__(self, memory: SharedMemory | None) -> None:
        self._memory = memory

    @answers_errors
    def RegisterMemory(  # noqa: N802 - the RPC's name
        self, request: memory_pb2.RegisterMemoryRequest, context: grpc.ServicerContext
    ) -> memory_pb2.RegisterMemoryResponse:
        """Map an object."""
        memory = _allowed(self._memory)
        region = memory.adopt(request.name, request.byte_size, request.proof, owner=context.peer())
        return memory_pb2.RegisterMemoryResponse(region=region)

    @answers_errors
    def UnregisterMemory(  # noqa: N802 - the RPC's name
        self,
        request: memory_pb2.UnregisterMemoryRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> memory_pb2.UnregisterMemoryResponse:
        """Let a region go."""
        _allowed(self._memory).unregister(request.region)
        return memory_pb2.UnregisterMemoryResponse()


class Places:
    """Where the tensors of one request are.

    Args:
        memory: of clients; None where the operator has not allowed it.
        context: of the request, whose connection the regions it names belong to.
    """

    def __init__(self, memory: SharedMemory | None, context: grpc.ServicerContext) -> None:
        self._memory, self._context = memory, context
        self._peer: str | None = None

    def tensor(self, message: tensor_pb2.Tensor, field: str, data: memoryview | None = None) -> Array:
        """A tensor of the request: in place, or from the message; arguments and errors as of `from_wire`.

        Raises:
            NotFoundError: no such region.
            FailedPreconditionError: shared memory is not allowed.
        """
        if not message.HasField("place"):
            return from_wire(message, field, data)
        if data is not None or message.data:
            raise InvalidArgumentError(f"{field}.place", "none beside data", "both")
        return from_wire(message, field, self._view(message.place, f"{field}.place"))

    def room(self, place: tensor_pb2.Place, dtype: np.dtype, shape: tuple[int, ...]) -> Array | None:
        """The place of an output as an array to be filled; None if it is too small.

        Raises:
            InvalidArgumentError: a place outside the region, or not aligned.
            NotFoundError, FailedPreconditionError: as `tensor`.
        """
        view = self._view(place, "output_place")
        size = math.prod(shape) * dtype.itemsize
        if len(view) < size:
            return None
        y = np.frombuffer(view[:size], dtype).reshape(shape)
        if not y.flags.aligned:
            raise InvalidArgumentError("output_place.offset", f"a multiple of {dtype.itemsize}", place.offset)
        return y

    def _view(self, place: tensor_pb2.Place, field: str) -> memoryview:
        memory = _allowed(self._memory)
        if self._peer is None:
            self._peer = self._context.peer()
        try:
            return memory.view(place.region, place.offset, place.byte_size, owner=self._peer)
        except InvalidArgumentError as error:
            part = error.field.removeprefix("shared_memory_")
            raise InvalidArgumentError(f"{field}.{part}", error.expected, error.got) from None


class Output:
    """The output of a request that says where it is wanted: `allocate` makes the array, `message` is then the answer.

    Args:
        place: in the client's memory.
        places: of the request.
        read: what is read while the output is written.
        limits: for an output that the place is too small for, which goes into the message.
    """

    def __init__(self, place: tensor_pb2.Place, places: Places, read: Iterable[Array], limits: Limits) -> None:
        self._place, self._places, self._read, self._limits = place, places, read, limits
        self._answer = b""
        self._inside: Array | None = None

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """The place, or an array that is copied into the message.

        Raises:
            InvalidArgumentError: a place that an input lies in, too; otherwise as `Places.room`.
            ResourceExhaustedError: too small a place, and too large an output for a message.
        """
        y = self._places.room(self._place, dtype, shape)
        if y is None:
            self._limits.check_message(math.prod(shape) * dtype.itemsize)
            self._inside = y = np.empty(shape, dtype)
            return y
        if any(np.may_share_memory(y, x) for x in self._read):
            raise InvalidArgumentError("output_place", "memory that no input lies in", "an input's")
        self._answer = _output_at(dtype, shape, self._place.region, self._place.offset)
        return y

    def message(self, rest: bytes) -> bytes:
        """The answer on the wire; `rest` are the fields beside the output."""
        if self._inside is None:
            return self._answer + rest
        message, room = message_with(1, self._inside.dtype, self._inside.shape, rest, "output")
        room[...] = self._inside
        return message


@functools.lru_cache(maxsize=1024)
def _output_at(dtype: np.dtype, shape: tuple[int, ...], region: str, offset: int) -> bytes:
    """The field of an answer that says where its output lies."""
    return convolution_pb2.ConvolveResponse(output=placed(dtype, shape, region, offset)).SerializeToString()


def _allowed(memory: SharedMemory | None) -> SharedMemory:
    if memory is None:
        raise FailedPreconditionError(OFF)
    return memory
