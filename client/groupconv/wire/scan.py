r"""Messages with one large tensor, read without protobuf's copies.

`scan` separates the tensor's bytes from the rest of the message, which is small and goes through protobuf.

Source: the protobuf encoding guide. Unusual encodings (groups, overlong numbers, broken bytes) are left to protobuf.
"""

from collections.abc import Sequence

from groupconv.wire.codec import varint

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types
_MAX_TAG, _MAX_LENGTH, _MAX_VARINT = 5, 5, 10  # bytes


def scan(message: bytes, path: Sequence[int]) -> tuple[bytes, memoryview | None]:
    r"""Separate the payload from the rest of a message.

    Args:
        message: on the wire.
        path: field numbers that lead to the payload, a `bytes` field: (1, 3) is field 3 of the message in field 1.

    Returns:
        The message without the payload, and the payload as a view of `message`. If there is no payload, or the message
        has an unusual encoding: the whole message and None; protobuf then reads it or reports what is wrong.

    Example:
        >>> small, payload = scan(b"\x0a\x06\x08\x03\x1a\x02ab\x28\x01", (1, 3))
        >>> small, bytes(payload)
        (b'\n\x02\x08\x03(\x01', b'ab')
    """
    view = memoryview(message)
    try:
        rest, payload = _without(view, 0, len(message), path)
    except (IndexError, ValueError):
        return message, None
    return (message, None) if payload is None else (b"".join(rest), payload)


def _without(
    view: memoryview, at: int, end: int, path: Sequence[int]
) -> tuple[list[bytes | memoryview], memoryview | None]:
    """The parts of view[at:end] outside the payload, and the payload. Of several, protobuf takes the last."""
    rest: list[bytes | memoryview] = []
    payload: memoryview | None = None
    wanted = path[0] << 3 | _LENGTH
    copied = at  # the end of the bytes that are in `rest`
    while at < end:
        start = at
        tag, at = _number(view, at, _MAX_TAG)
        if tag < 8:  # field 0
            raise ValueError(tag)
        begin, at = _value(view, at, tag & 7)
        if at > end:
            raise ValueError(at)
        if tag != wanted:
            continue
        rest.append(view[copied:start])
        copied = at
        if len(path) == 1:
            payload = view[begin:at]
        else:
            inner, inner_payload = _without(view, begin, at, path[1:])
            payload = payload if inner_payload is None else inner_payload
            rest += [varint(tag), varint(sum(map(len, inner))), *inner]
    rest.append(view[copied:end])
    return rest, payload


def _value(view: memoryview, at: int, kind: int) -> tuple[int, int]:
    """Where the value of a field begins and ends, by its wire type."""
    if kind == _LENGTH:
        length, at = _number(view, at, _MAX_LENGTH)
        return at, at + length
    if kind == _VARINT:
        return at, _number(view, at, _MAX_VARINT)[1]
    if kind in (_FIXED64, _FIXED32):
        return at, at + (8 if kind == _FIXED64 else 4)
    raise ValueError(kind)


def _number(view: memoryview, at: int, most: int) -> tuple[int, int]:
    """Read a varint of at most `most` bytes: its value, and the offset after it."""
    value = 0
    for i in range(most):
        byte = view[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError(at)
