r"""Messages of a stream that carry bytes alone, written and read without protobuf's copies.

protobuf copies a `bytes` field when it is set, when it is serialized and at each read. A message that holds nothing but
the field is its tag, its length and the bytes, so it is written with one copy and read with none. Field 2 of
`ConvolveStreamRequest` and of `ConvolveStreamResponse` is such a field; any protobuf reads what is written here.

Source: the protobuf encoding guide, "Length-Delimited Records".
"""

CHUNK_BYTES = 2**20
"""What a chunk holds at most, unless one row is all that it holds: the size at which gRPC is fastest."""

_TAG = 0x12  # field 2, length-delimited


def packed(data: memoryview) -> bytes:
    r"""A message whose field 2 is `data`.

    Example:
        >>> packed(memoryview(b"ab"))
        b'\x12\x02ab'
    """
    return b"".join((_prefix(len(data)), data))


def unpacked(message: bytes) -> memoryview | None:
    """The bytes of a message that is nothing but field 2, not copied; None for any other message.

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


def _prefix(length: int) -> bytes:
    prefix = bytearray([_TAG])
    while length > 0x7F:
        prefix.append(0x80 | (length & 0x7F))
        length >>= 7
    prefix.append(length)
    return bytes(prefix)
