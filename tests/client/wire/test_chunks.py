"""Chunks are the messages that protobuf would write and read."""

from hypothesis import given
from hypothesis import strategies as st

from groupconv.v1 import stream_pb2
from groupconv.wire.chunks import packed, unpacked


@given(st.binary(max_size=40_000) | st.integers(1, 2_100_000).map(bytes))
def test_protobuf_reads_and_writes_the_same(data):
    for message in (stream_pb2.ConvolveStreamRequest, stream_pb2.ConvolveStreamResponse):
        ours = packed(memoryview(data))
        assert ours == message(data=data).SerializeToString()
        assert bytes(unpacked(ours)) == data


@given(st.binary(max_size=12))
def test_what_is_not_exactly_one_chunk_is_left_to_protobuf(message):
    data = unpacked(message)
    if data is not None:
        assert stream_pb2.ConvolveStreamRequest.FromString(message).data == bytes(data)
