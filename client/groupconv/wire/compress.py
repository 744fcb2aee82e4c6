"""Lossless compression of a stream's chunks: byte shuffle, then LZ4.

The shuffle puts the first bytes of all elements first, then the second bytes, and so on. Signs and exponents then lie
side by side, and LZ4 finds repetitions. A chunk that does not shrink is sent as it is.
"""

from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv.v1 import stream_pb2
from groupconv.wire.chunks import CHUNK_BYTES


def library() -> Any:
    """The module `lz4.block`, or None if it is not installed."""
    try:
        import lz4.block
    except ImportError:
        return None
    return lz4.block


def compressed(data: memoryview, itemsize: int) -> stream_pb2.CompressedChunk | None:
    """Compress a chunk; None if it does not shrink.

    Args:
        data: whole elements, at most CHUNK_BYTES.
        itemsize: bytes of an element.

    Example:
        >>> chunk = compressed(memoryview(np.arange(999.0)).cast("B"), 8)
        >>> len(chunk.data) < 7992 == chunk.size
        True
    """
    if len(data) > CHUNK_BYTES or len(data) % itemsize:
        return None
    shuffled = np.frombuffer(data, np.uint8).reshape(-1, itemsize).T.copy()
    small = library().compress(shuffled.data, store_size=False)
    return stream_pb2.CompressedChunk(data=small, size=len(data)) if len(small) < len(data) else None


def expanded(chunk: stream_pb2.CompressedChunk, itemsize: int) -> memoryview:
    """Decompress a chunk, into at most CHUNK_BYTES.

    Args:
        chunk: from `compressed`.
        itemsize: bytes of an element.

    Raises:
        ResourceExhaustedError: the chunk's declared size is more than CHUNK_BYTES.
        InvalidArgumentError: the data does not decompress to the declared size.

    Example:
        >>> expanded(compressed(memoryview(b"abc" * 100), 4), 4).tobytes() == b"abc" * 100
        True
    """
    if chunk.size > CHUNK_BYTES:
        raise ResourceExhaustedError(f"compressed.size: {chunk.size} bytes, more than the {CHUNK_BYTES} of a chunk")
    block = library()
    if chunk.size < 1 or chunk.size % itemsize or block is None:
        raise InvalidArgumentError("compressed.size", f"whole elements of {itemsize} bytes", chunk.size)
    try:
        shuffled = block.decompress(chunk.data, uncompressed_size=chunk.size)
    except (block.LZ4BlockError, ValueError):
        shuffled = b""
    if len(shuffled) != chunk.size:
        raise InvalidArgumentError(
            "compressed.data",
            f"an LZ4 block of {chunk.size} bytes",
            f"{len(chunk.data)} bytes that do not decompress to it",
        )
    plain = np.frombuffer(shuffled, np.uint8).reshape(itemsize, -1).T.copy()
    return plain.reshape(-1).data
