"""The codec against the generated classes: the same messages, whoever writes and whoever reads."""

import math

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from groupconv.convolution.dtypes import DTYPES
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import convolution_pb2, tensor_pb2
from groupconv.wire.codec import ALIGNMENT, DecodeCache, message_with, writable
from groupconv.wire.requests import with_input
from groupconv.wire.scan import scan
from groupconv.wire.tensors import from_wire, to_wire
from strategies import array

Request = convolution_pb2.ConvolveRequest
INPUT = (1, 3)

requests = st.builds(
    Request,
    input=st.none()
    | st.builds(
        tensor_pb2.Tensor,
        dtype=st.integers(0, 9),
        shape=st.lists(st.integers(-1, 2**62), max_size=5),
        data=st.binary(max_size=300),
        padding=st.binary(max_size=20),
    ),
    layer=st.text(max_size=20),
    allow_reordering=st.booleans(),
    without_report=st.booleans(),
)


def put_back(small: bytes, payload: memoryview | None) -> Request:
    message = Request.FromString(small)
    if payload is not None:
        assert not message.input.data
        message.input.data = bytes(payload)
    return message


@settings(max_examples=300)
@given(requests)
def test_what_protobuf_writes_is_read(message):
    raw = message.SerializeToString()
    small, payload = scan(raw, INPUT)
    assert put_back(small, payload) == message
    if message.input.data:
        assert payload.obj is raw
        assert len(small) < len(raw)


@settings(max_examples=300)
@given(st.lists(requests, min_size=2, max_size=3), st.binary(max_size=30))
def test_repeated_and_unknown_fields_mean_what_they_mean_to_protobuf(messages, noise):
    unknown = b"\x7a" + bytes((len(noise),)) + noise + b"\x81\x01" + bytes(8) + b"\x85\x01" + bytes(4)
    raw = unknown.join(m.SerializeToString() for m in messages)
    assert put_back(*scan(raw, INPUT)) == Request.FromString(raw)


@settings(max_examples=2000)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.tuples(requests, st.integers(0, 10**6), st.integers(0, 255)).map(
            lambda t: (
                raw := bytearray(t[0].SerializeToString() or b"\x0a"),
                raw.__setitem__(t[1] % len(raw), t[2]),
                bytes(raw),
            )[-1]
        ),
        st.tuples(requests, st.integers(0, 400)).map(lambda t: t[0].SerializeToString()[: t[1]]),
    )
)
def test_broken_bytes_are_what_they_are_to_protobuf(raw):
    try:
        expected = Request.FromString(raw)
    except DecodeError:
        small, _ = scan(raw, INPUT)
        with pytest.raises(DecodeError):
            Request.FromString(small)
        return
    small, payload = scan(raw, INPUT)
    read = Request.FromString(small)
    if payload is not None:
        read.input.data = bytes(payload)
    assert read.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 9), max_size=5), requests)
def test_protobuf_reads_what_message_with_writes(dtype, shape, others):
    x = array(np.random.default_rng(0), tuple(shape), DTYPES[dtype])
    others.ClearField("input")
    expected = to_wire(x)
    message, room = message_with(1, x.dtype, x.shape, others.SerializeToString())
    room[...] = x
    read = Request.FromString(message)
    np.testing.assert_array_equal(from_wire(read.input), x)
    read.input.ClearField("padding")
    assert read.input == expected
    read.ClearField("input")
    assert read == others
    _, payload = scan(message, INPUT)
    assert np.frombuffer(payload, np.uint8).ctypes.data % ALIGNMENT == 0


def test_elements_of_a_message_outlive_the_name_of_the_message():
    message, room = message_with(1, np.dtype(np.float32), (1000, 1000))
    room[...] = 7
    del message
    assert (room == 7).all()


def test_writing_shows_in_the_bytes():
    raw = bytes(bytearray(5000))
    writable(raw, 4000, np.dtype(np.uint8), (1000,))[999] = 9
    assert raw[4999] == 9


def test_a_message_too_large_for_protobuf_is_refused_before_it_is_made():
    with pytest.raises(InvalidArgumentError, match=r"input: expected less than 2 GiB, got '2147483"):
        message_with(1, np.dtype(np.float64), (2**28,), field="input")


def test_a_message_that_was_made_is_never_written_again():
    x = np.arange(3000, dtype=np.float32).reshape(1, 3, 1000)
    first = with_input(x, b"")
    copy = bytes(bytearray(first))
    second = with_input(x + 1, b"")
    third = with_input(x + 2, b"")
    assert first == copy
    np.testing.assert_array_equal(from_wire(Request.FromString(second).input), x + 1)
    np.testing.assert_array_equal(from_wire(Request.FromString(third).input), x + 2)


PLAIN = st.builds(
    lambda name, shape, filled, extra: (
        convolution_pb2.ConvolveRequest(
            layer=name, input=tensor_pb2.Tensor(dtype=5, shape=shape, data=bytes([filled]) * math.prod(shape))
        ).SerializeToString()
        + extra
    ),
    st.sampled_from(["", "a", "b", "ab"]),
    st.lists(st.integers(1, 3), max_size=3),
    st.integers(0, 255),
    st.sampled_from([b"", b"\x28\x01", b"\x0a\x02\x08\x03", b"\x0a\x03\x1a\x01x"]),
)


@given(st.lists(PLAIN, min_size=2, max_size=8))
def test_what_is_remembered_of_a_form_is_what_scanning_finds(messages):
    cache = DecodeCache(size=3)
    for message in messages:
        small, payload = scan(message, (1, 3))
        known = cache.get(message)
        if known is not None:
            meaning, start = known
            assert (meaning, message[start : start + len(payload)]) == (small, bytes(payload))
        elif payload is not None:
            cache.put(message, payload, small)
