r"""Messages with one large tensor in them, read and written without protobuf's copies.

protobuf copies a `bytes` field when it is set, when it is serialized and at each read. Here a message is taken apart by
its wire format: the large field is handed over where it lies, what is left is small and goes through protobuf. And a
message is laid out with room for the elements, so that whoever computes them writes them where they travel. Any
protobuf reads what is written here, and what any protobuf writes is read.

Source: the protobuf encoding guide. Anything unusual (groups, overlong numbers, broken bytes) is left to protobuf.
"""

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 16
"""Elements begin at a multiple of this in a message written here, and so in the memory of whoever receives it."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_DTYPE, _SHAPE, _DATA, _PADDING = 0x08, 0x12, 0x1A, 0x22  # tags of the fields of Tensor
_MAX_LENGTH = 2**31 - 1  # of a protobuf message
_START = 4  # bytes before every payload: two tags and two lengths
_LONGEST = 1024  # bytes beside the payload that are remembered

Meaning = TypeVar("Meaning")

_from_size = ctypes.pythonapi.PyBytes_FromStringAndSize
_from_size.argtypes, _from_size.restype = (ctypes.c_void_p, ctypes.c_ssize_t), ctypes.py_object
_address = ctypes.pythonapi.PyBytes_AsString
_address.argtypes, _address.restype = (ctypes.py_object,), ctypes.c_void_p


def scan(message: bytes, path: Sequence[int]) -> tuple[bytes, memoryview | None]:
    r"""Take the payload out of a message.

    Args:
        message: on the wire.
        path: field numbers that lead to the payload, a `bytes` field: (1, 3) is field 3 of the message in field 1.

    Returns:
        The message without the payload, and the payload as a view of `message`. Where there is none, or `message` is
        not plainly encoded, all of `message` and None: protobuf then reads it, or says what is wrong with it.

    Example:
        >>> small, payload = scan(b"\x0a\x06\x08\x03\x1a\x02ab\x28\x01", (1, 3))
        >>> small, bytes(payload)
        (b'\n\x02\x08\x03(\x01', b'ab')
    """
    view = memoryview(message)
    try:
        parts, found = _without(view, 0, len(message), path)
    except (IndexError, ValueError):
        return message, None
    return (message, None) if found is None else (b"".join(parts), found)


class Forms(Generic[Meaning]):
    r"""What messages say beside their payload, remembered: requests and answers of one layer differ in that alone.

    A message that has the same bytes before and after its payload as another had says the same, for the payload's
    length is in those before. Safe to use from several threads.

    Args:
        most: messages remembered.

    Example:
        >>> forms = Forms()
        >>> message = b"\x0a\x06\x08\x03\x1a\x02ab\x28\x01"
        >>> forms.keep(message, scan(message, (1, 3))[1], "a float32, for layer 1")
        >>> forms.find(b"\x0a\x06\x08\x03\x1a\x02cd\x28\x01")
        ('a float32, for layer 1', 6)
        >>> forms.find(b"\x0a\x06\x08\x03\x1a\x02cd\x28\x02") is None
        True
    """

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._places: dict[tuple[int, bytes], tuple[int, int]] = {}
        self._meanings: dict[tuple[bytes, bytes], Meaning] = {}

    def find(self, message: bytes) -> tuple[Meaning, int] | None:
        """What was kept for a message of this form, and where its payload begins."""
        place = self._places.get((len(message), message[:_START]))
        if place is None:
            return None
        start, stop = place
        meaning = self._meanings.get((message[:start], message[stop:]))
        return None if meaning is None else (meaning, start)

    def keep(self, message: bytes, payload: memoryview, meaning: Meaning) -> None:
        """Remember what a message says, of which `payload` is a part; unless what is beside it is long."""
        if not len(payload) or len(message) - len(payload) > _LONGEST:
            return
        start = offset(message, payload)
        stop = start + len(payload)
        if len(self._meanings) >= self._most:
            self._places.clear()
            self._meanings.clear()
        self._meanings[message[:start], message[stop:]] = meaning
        self._places[len(message), message[:_START]] = start, stop


def offset(message: bytes, payload: memoryview) -> int:
    """Where in a message its payload begins, which is a view of it."""
    begins: int = _address(message)
    return np.frombuffer(payload, np.uint8).ctypes.data - begins


def writable(message: bytes, start: int, dtype: np.dtype, shape: tuple[int, ...]) -> NDArray[Any]:
    """Elements in a message that nobody else reads, as an array to be written; it keeps the message alive.

    Args:
        message: on the wire.
        start: where the elements begin.
        dtype: of them.
        shape: extents.

    Example:
        >>> message = bytes(bytearray(b"a fresh one"))
        >>> writable(message, 2, np.dtype("S1"), (5,))[0] = b"F"; message
        b'a Fresh one'
    """
    memory = _Memory.from_address(_address(message))
    memory.of = message
    return np.ndarray(shape, dtype, memory, start)


def laid_out(field: int, dtype: np.dtype, code: int, shape: Sequence[int], rest: bytes) -> tuple[bytes, NDArray[Any]]:
    """A message with a tensor whose elements are still to be written.

    Args:
        field: number of the message's field that is the tensor.
        dtype: of the elements, the machine's own byte order.
        code: the same as a DataType.
        shape: extents.
        rest: the message's other fields, on the wire.

    Returns:
        The message, and the array in it that must be filled before the message is sent.

    Raises:
        ValueError: more than a message can hold.

    Example:
        >>> message, array = laid_out(1, np.dtype(np.float32), 3, (2,), b"")
        >>> array[...] = [1, 2]
        >>> from groupconv.v1 import convolution_pb2
        >>> convolution_pb2.ConvolveRequest.FromString(message).input.data == array.tobytes()
        True
    """
    shape = tuple(shape)
    return with_room(_header(field, code, shape, dtype.itemsize), dtype, shape, rest)


def with_room(head: bytes, dtype: np.dtype, shape: tuple[int, ...], rest: bytes = b"") -> tuple[bytes, NDArray[Any]]:
    """`head`, room for an array's elements, `rest`; and the array, which must be filled before the message is sent.

    Raises:
        ValueError: more than a message can hold.
    """
    before = len(head)
    total = before + math.prod(shape) * dtype.itemsize + len(rest)
    if total > _MAX_LENGTH:
        raise ValueError(total)
    message: bytes = _from_size(None, total)
    at = _address(message)
    ctypes.memmove(at, head, before)
    if rest:
        ctypes.memmove(at + total - len(rest), rest, len(rest))
    return message, writable(message, before, dtype, shape)


def varint(value: int) -> bytes:
    r"""A number that is not negative, as protobuf writes it.

    Example:
        >>> varint(300)
        b'\xac\x02'
    """
    if value < 0x80:
        return bytes((value,))
    found = bytearray()
    while value > 0x7F:
        found.append(0x80 | value & 0x7F)
        value >>= 7
    found.append(value)
    return bytes(found)


class _Memory(ctypes.c_char * _MAX_LENGTH):  # type: ignore[misc] # a type all the same
    """Memory without the mark that it is read-only; how much of it there is knows the message `of` which it is."""

    __slots__ = ("of",)


def _without(
    view: memoryview, at: int, end: int, path: Sequence[int]
) -> tuple[list[bytes | memoryview], memoryview | None]:
    """The parts of a message that are not the payload, and the payload: of several the last, as protobuf has it."""
    parts: list[bytes | memoryview] = []
    found: memoryview | None = None
    wanted = path[0] << 3 | _LENGTH
    kept = at  # from here on nothing is in `parts` yet
    while at < end:
        start = at
        tag, at = _number(view, at, 5)
        kind = tag & 7
        if tag < 8:  # field 0
            raise ValueError(tag)
        if kind == _LENGTH:
            length, at = _number(view, at, 5)
            stop = at + length
            if stop > end:
                raise ValueError(length)
            if tag == wanted:
                parts.append(view[kept:start])
                if len(path) == 1:
                    found = view[at:stop]
                else:
                    inner, payload = _without(view, at, stop, path[1:])
                    found = found if payload is None else payload
                    parts += [varint(tag), varint(sum(map(len, inner))), *inner]
                kept = stop
            at = stop
        elif kind == _VARINT:
            _, at = _number(view, at, 10)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(kind)
    if at != end:
        raise ValueError(at)
    parts.append(view[kept:end])
    return parts, found


def _number(view: memoryview, at: int, most: int) -> tuple[int, int]:
    """A varint of at most so many bytes, and where it ends."""
    byte = view[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    for i in range(at + 1, at + most):
        byte = view[i]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, i + 1
        shift += 7
    raise ValueError(at)


@functools.lru_cache(maxsize=1024)
def _header(field: int, code: int, shape: tuple[int, ...], itemsize: int) -> bytes:
    """All of a message before the tensor's elements, with padding so that they begin aligned."""
    size = math.prod(shape) * itemsize
    extents = b"".join(map(varint, shape))
    kind = b"".join((bytes((_DTYPE,)), varint(code), bytes((_SHAPE,)), varint(len(extents)), extents))
    data = bytes((_DATA,)) + varint(size)
    for length in range(2 * ALIGNMENT):
        padding = b"" if length < 2 else bytes((_PADDING, length - 2)) + bytes(length - 2)
        inner = kind + padding + data
        head = varint(field << 3 | _LENGTH) + varint(len(inner) + size) + inner
        if len(head) % ALIGNMENT == 0:
            return head
    raise AssertionError(field)  # one length in ALIGNMENT fits
