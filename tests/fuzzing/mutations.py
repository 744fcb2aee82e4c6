"""Valid messages made wrong: by bytes, and by fields set to extremes. Everything follows from the random generator."""

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

INTEGERS = (0, 1, -1, 2, 3, 7, 64, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32, 2**32 - 1, 2**62, 2**63 - 1, -(2**63))
STRINGS = ("", "/", "..", "../x", "a/../b", "/etc/passwd", "a//b", "a\x00b", "\x1b[2J", "x" * 10_240, "ü", "edge", "1")
SURROGATE = "half a surrogate pair"
"""Stands for text that is not UTF-8, which no message takes from Python; `invalid_text` puts it in."""
FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 5e-324, 1.7e308)
VARINTS = (b"\x00", b"\x7f", b"\xff\x01", b"\xff\xff\xff\xff\x07", b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x80" * 5)


def bytes_changed(rng: random.Random, raw: bytes, others: list[bytes]) -> bytes:
    """The message after one to four accidents: bits, bytes, lengths, cuts, repeats, another message's parts."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + rng.randint(1, 16))
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            data[at:to] = rng.choice(VARINTS)
        elif kind == 3:
            del data[at:to]
        elif kind == 4:
            data[at:at] = data[at:to]
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[at:at] = other[start : start + rng.randint(1, 64)]
        else:
            data[at:at] = rng.randbytes(rng.randint(1, 16))
    return bytes(data)


def noise(rng: random.Random) -> bytes:
    """No message at all, as a rule."""
    return rng.randbytes(rng.choice((0, 1, 2, 5, 20, 100, 1000)))


def invalid_text(raw: bytes) -> bytes:
    """The message with half of a surrogate pair wherever `SURROGATE` stands: bytes that are not UTF-8."""
    return raw.replace(SURROGATE.encode(), b"\xed\xa0\x80" * (len(SURROGATE) // 3))


def fields_changed(rng: random.Random, message: Message) -> None:
    """Set one to three fields of a message, at any depth, to extremes."""
    for _ in range(rng.randint(1, 3)):
        _change(rng, message)


def _change(rng: random.Random, message: Message) -> None:
    while message.DESCRIPTOR.fields:
        field = rng.choice(message.DESCRIPTOR.fields)
        if field.message_type is None:
            _set(rng, message, field)
            return
        inner = _inner(rng, message, field)
        if inner is None:
            return
        message = inner


def _inner(rng: random.Random, message: Message, field: Any) -> Message | None:
    """A message in the message, to change; or None, where it was removed or added instead."""
    if field.message_type.GetOptions().map_entry:
        getattr(message, field.name).clear()
        return None
    if not field.is_repeated:
        if rng.random() < 0.15:
            message.ClearField(field.name)
            return None
        inner: Message = getattr(message, field.name)
        inner.SetInParent()
        return inner
    repeated = getattr(message, field.name)
    choice = rng.random()
    if choice < 0.1 or not repeated:
        repeated.add()
    elif choice < 0.2:
        del repeated[rng.randrange(len(repeated))]
        return None
    elif choice < 0.25:
        for _ in range(70):
            repeated.add().CopyFrom(repeated[0])
        return None
    return repeated[rng.randrange(len(repeated))]


def _set(rng: random.Random, message: Message, field: Any) -> None:
    if not field.is_repeated:
        setattr(message, field.name, _extreme(rng, field, getattr(message, field.name)))
        return
    repeated = getattr(message, field.name)
    if repeated and rng.random() < 0.6:
        repeated[rng.randrange(len(repeated))] = _extreme(rng, field, repeated[0])
    elif repeated and rng.random() < 0.3:
        del repeated[rng.randrange(len(repeated)) :]
    else:
        repeated.extend(_extreme(rng, field, None) for _ in range(rng.choice((1, 1, 2, 9, 64, 100))))


def _extreme(rng: random.Random, field: Any, present: Any) -> Any:
    kind = field.cpp_type
    if kind == Field.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == Field.CPPTYPE_STRING:
        if field.type == Field.TYPE_STRING:
            return rng.choice((*STRINGS, SURROGATE))
        now = bytes(present or b"")
        return rng.choice((b"", now[:-1], now + b"\0", now * 2, rng.randbytes(rng.randrange(64))))
    if kind in (Field.CPPTYPE_DOUBLE, Field.CPPTYPE_FLOAT):
        return rng.choice(FLOATS)
    lowest, highest = {
        Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        Field.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
        Field.CPPTYPE_UINT32: (0, 2**32 - 1),
        Field.CPPTYPE_UINT64: (0, 2**64 - 1),
        Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    }[kind]
    if field.enum_type is not None and rng.random() < 0.5:
        return rng.choice([value.number for value in field.enum_type.values])
    value = rng.choice(INTEGERS) if rng.random() < 0.7 else rng.randrange(-4, 40)
    return min(highest, max(lowest, value))
