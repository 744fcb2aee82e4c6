r"""Messages with one large tensor, written without protobuf's copies; and what was decoded of such messages.

protobuf copies a `bytes` field when it is set, when it is serialized and at each read. To write, `message_with` makes a
message with space for the elements, and the caller computes them there. To read, see scan.py. Messages are ordinary
protobuf on the wire.

Source: the protobuf encoding guide.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution.dtypes import DTYPES, known
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import tensor_pb2

ALIGNMENT = 16
"""Elements start at a multiple of this in a message written here, and so in the receiver's memory."""
DATA_TYPES: dict[np.dtype, tensor_pb2.DataType.ValueType] = {
    dtype: tensor_pb2.DataType.Value(f"DATA_TYPE_{name.upper()}") for name, dtype in DTYPES.items()
}
MAX_CACHED = 1024
"""Bytes beside the payload of a message that a `DecodeCache` keeps."""

_LENGTH = 2  # the wire type of what has a length
_DTYPE, _SHAPE, _DATA, _PADDING = 0x08, 0x12, 0x1A, 0x22  # tags of the fields of Tensor
_MAX_LENGTH = 2**31 - 1  # of a protobuf message
_START = 4  # bytes before every payload: two tags and two lengths

Decoded = TypeVar("Decoded")

_from_size = ctypes.pythonapi.PyBytes_FromStringAndSize
_from_size.argtypes, _from_size.restype = (ctypes.c_void_p, ctypes.c_ssize_t), ctypes.py_object
_address = ctypes.pythonapi.PyBytes_AsString
_address.argtypes, _address.restype = (ctypes.py_object,), ctypes.c_void_p


class DecodeCache(Generic[Decoded]):
    r"""Decoded messages by their bytes beside the payload. Messages of one layer differ in the payload alone.

    Two messages with the same bytes before and after the payload decode to the same value: the bytes before it include
    its length. Safe to use from several threads.

    Args:
        size: number of messages to keep.

    Example:
        >>> from groupconv.wire.scan import scan
        >>> cache = DecodeCache()
        >>> message = b"\x0a\x06\x08\x03\x1a\x02ab\x28\x01"
        >>> cache.put(message, scan(message, (1, 3))[1], "a float32, for layer 1")
        >>> cache.get(b"\x0a\x06\x08\x03\x1a\x02cd\x28\x01")
        ('a float32, for layer 1', 6)
        >>> cache.get(b"\x0a\x06\x08\x03\x1a\x02cd\x28\x02") is None
        True
    """

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._payloads: dict[tuple[int, bytes], tuple[int, int]] = {}  # start and stop, by length and first bytes
        self._decoded: dict[tuple[bytes, bytes], Decoded] = {}

    def get(self, message: bytes) -> tuple[Decoded, int] | None:
        """The decoded message and the offset of its payload; None if the cache does not have it."""
        payload = self._payloads.get((len(message), message[:_START]))
        if payload is None:
            return None
        start, stop = payload
        decoded = self._decoded.get((message[:start], message[stop:]))
        return None if decoded is None else (decoded, start)

    def put(self, message: bytes, payload: memoryview, decoded: Decoded) -> None:
        """Keep a decoded message, unless the bytes beside its payload are more than `MAX_CACHED`.

        Args:
            message: on the wire.
            payload: a view of `message`.
            decoded: what `get` returns for messages that differ in the payload alone.
        """
        if not len(payload) or len(message) - len(payload) > MAX_CACHED:
            return
        start = offset(message, payload)
        stop = start + len(payload)
        if len(self._decoded) >= self._size:
            self._payloads.clear()
            self._decoded.clear()
        self._decoded[message[:start], message[stop:]] = decoded
        self._payloads[len(message), message[:_START]] = start, stop


def offset(message: bytes, payload: memoryview) -> int:
    """The offset in `message` of `payload`, a view of it."""
    start: int = _address(message)
    return np.frombuffer(payload, np.uint8).ctypes.data - start


def writable(message: bytes, start: int, dtype: np.dtype, shape: tuple[int, ...]) -> NDArray[Any]:
    """Elements of a message as a writable array, which keeps the message alive. Nothing else may refer to the message.

    Args:
        message: on the wire.
        start: offset of the elements.
        dtype: of the elements.
        shape: extents.

    Example:
        >>> message = bytes(bytearray(b"a fresh one"))
        >>> writable(message, 2, np.dtype("S1"), (5,))[0] = b"F"; message
        b'a Fresh one'
    """
    memory = _Memory.from_address(_address(message))
    memory.message = message
    return np.ndarray(shape, dtype, memory, start)


def message_with(
    number: int,
    dtype: np.dtype,
    shape: Sequence[int],
    rest: bytes = b"",
    field: str = "tensor",
    types: Mapping[np.dtype, tensor_pb2.DataType.ValueType] = DATA_TYPES,
) -> tuple[bytes, NDArray[Any]]:
    """A message whose field `number` is a tensor. Fill the array before the message is sent.

    Args:
        number: of the tensor's field.
        dtype: of the tensor.
        shape: of the tensor.
        rest: the message's other fields, on the wire.
        field: what errors call the tensor.
        types: the dtypes that are supported.

    Returns:
        The message, and the tensor's elements in it as an uninitialized array.

    Raises:
        InvalidArgumentError: the dtype is not supported, or the message would have 2 GiB or more.

    Example:
        >>> message, elements = message_with(1, np.dtype(np.float32), (2,))
        >>> elements[...] = [1, 2]
        >>> from groupconv.v1 import convolution_pb2
        >>> convolution_pb2.ConvolveRequest.FromString(message).input.data == elements.tobytes()
        True
    """
    code = types.get(dtype) or types[known(f"{field}.dtype", dtype)]
    shape = tuple(shape)
    size = math.prod(shape) * dtype.itemsize
    extents = b"".join(map(varint, shape))
    kind = b"".join((bytes((_DTYPE, code, _SHAPE)), varint(len(extents)), extents))
    tag, data = varint(number << 3 | _LENGTH), bytes((_DATA,)) + varint(size)
    padding = 0  # bytes of the padding field
    while True:
        length = varint(len(kind) + padding + len(data) + size)
        missing = -(len(tag) + len(length) + len(kind) + padding + len(data)) % ALIGNMENT
        if not missing:
            break
        padding += missing if padding + missing > 1 else missing + ALIGNMENT  # its tag and length are 2 bytes
    filler = bytes((_PADDING, padding - 2)) + bytes(padding - 2) if padding else b""
    try:
        return allocate(b"".join((tag, length, kind, filler, data)), dtype, shape, rest)
    except ValueError as error:
        raise InvalidArgumentError(field, "less than 2 GiB", f"{error} bytes") from None


def allocate(head: bytes, dtype: np.dtype, shape: tuple[int, ...], rest: bytes = b"") -> tuple[bytes, NDArray[Any]]:
    """Bytes that are `head`, the elements of an array, and `rest`; and the uninitialized array.

    Raises:
        ValueError: a message cannot have so many bytes.
    """
    start = len(head)
    total = start + math.prod(shape) * dtype.itemsize + len(rest)
    if total > _MAX_LENGTH:
        raise ValueError(total)
    message: bytes = _from_size(None, total)
    address = _address(message)
    ctypes.memmove(address, head, start)
    if rest:
        ctypes.memmove(address + total - len(rest), rest, len(rest))
    return message, writable(message, start, dtype, shape)


def varint(value: int) -> bytes:
    r"""A non-negative number as protobuf writes it.

    Example:
        >>> varint(300)
        b'\xac\x02'
    """
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(0x80 | value & 0x7F)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class _Memory(ctypes.c_char * _MAX_LENGTH):  # type: ignore[misc] # mypy does not know it as a class
    """The memory of `message`, writable. Its length is nominal: arrays over it must stay within the message."""

    __slots__ = ("message",)
