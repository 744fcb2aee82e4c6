r"""Messages of a stream that are one `bytes` field, written and read without protobuf's copies.

protobuf copies a `bytes` field when it is set, when it is serialized and at each read. A message with only that field
is a tag, a length and the bytes, so it can be written with one copy and read with none. Field 2 of
`ConvolveStreamRequest`, `ConvolveStreamResponse` and `LoadNetworkRequest` is such a field. Messages are ordinary
protobuf on the wire.

Source: the protobuf encoding guide, "Length-Delimited Records".
"""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from groupconv.errors import InvalidArgumentError

M = TypeVar("M", bound=Message)
CHUNK_BYTES = 2**20
"""Most bytes in a chunk: the size at which gRPC is fastest."""

_TAG = 0x12  # field 2, length-delimited


def packed(data: memoryview) -> bytes:
    r"""A message whose only field, number 2, is `data`.

    Example:
        >>> packed(memoryview(b"ab"))
        b'\x12\x02ab'
    """
    return b"".join((_prefix(len(data)), data))


def unpacked(message: bytes) -> memoryview | None:
    """The bytes of field 2 as a view, if the message has no other field; else None.

    Example:
        >>> bytes(unpacked(packed(memoryview(b"x" * 300)))) == b"x" * 300, unpacked(b"")
        (True, None)
    """
    if not message or message[0] != _TAG:
        return None
    length, at = 0, 1
    for shift in range(0, 35, 7):
        if at >= len(message):
            return None
        byte = message[at]
        length |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return memoryview(message)[at:] if length == len(message) - at else None
    return None


def parsed(kind: type[M], raw: bytes) -> M:
    """Any message of such a stream, by protobuf.

    Raises:
        InvalidArgumentError: the bytes are no message of this kind.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidArgumentError("message", f"a {kind.DESCRIPTOR.name}", f"{len(raw)} other bytes") from None


def _prefix(length: int) -> bytes:
    prefix = bytearray([_TAG])
    while length > 0x7F:
        prefix.append(0x80 | (length & 0x7F))
        length >>= 7
    prefix.append(length)
    return bytes(prefix)
