"""A streaming convolution on the client, without the transport: messages to send, and what answers mean.

A `Transfer` outlives its connections: each attempt continues after the last complete band.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError

from groupconv.arguments import as_array, checked_output, checked_steps, ready_steps
from groupconv.convolution.steps import Array, Step, geometries
from groupconv.errors import DataLossError, InvalidArgumentError, ResourceExhaustedError
from groupconv.gpu.arrays import Tensor
from groupconv.streaming.bands import Iterated, Narrowed, Sink, Sliced, Source
from groupconv.streaming.overlap import check_apart
from groupconv.streaming.progress import Progress, ProgressCallback, callback, close
from groupconv.v1 import stream_pb2
from groupconv.wire.chunks import CHUNK_BYTES, packed, unpacked
from groupconv.wire.compress import compressed, expanded, library
from groupconv.wire.requests import steps_to_wire
from groupconv.wire.tensors import type_from_wire, type_to_wire

STREAM = "/groupconv.v1.StreamService/ConvolveStream"
NONE, LZ4 = stream_pb2.COMPRESSION_UNSPECIFIED, stream_pb2.COMPRESSION_SHUFFLE_LZ4
STREAM_ABOVE = 4 * 2**20
"""Bytes of input or output above which the convolution functions use a stream, which is then faster than a message."""


@dataclass
class Transfer:
    """One streaming convolution.

    Args:
        source: rows to send.
        steps: with arrays, from `ready_steps`.
        out: array to fill, or None.
        unbatched: whether `out` lacks the sample axis.
        progress: called after each band.
        allow_reordering: whether sums over input channels may be split between workers.
        band_rows: output rows of a band; 0 lets the server choose.
        wide: dtype of `out` if rows travel in a smaller one.
        compression: whether chunks may be compressed.

    Attributes:
        done: output rows that have arrived.
        sink: writes them to `out`; None until a server has accepted the stream.
        resumed: number of connections after the first.
    """

    source: Source
    steps: Sequence[Step]
    out: Any = None
    unbatched: bool = False
    progress: ProgressCallback | None = None
    allow_reordering: bool = False
    band_rows: int = 0
    wide: np.dtype | None = None
    compression: bool = False
    done: int = 0
    sink: Sink | None = None
    resumed: int = 0
    _band: stream_pb2.StreamBand | None = None
    _buffer: Array = field(default_factory=lambda: np.empty(0, np.uint8))
    _filled: int = 0
    _row: tuple[tuple[int, ...], np.dtype] = ((), np.dtype(np.uint8))
    _total: int = 0
    _compressed: bool = False
    _began: float = field(default_factory=time.monotonic)

    @property
    def started(self) -> bool:
        """Whether a server has accepted the stream."""
        return self.sink is not None

    def header(self) -> bytes:
        """The first message of an attempt, which continues where the last one ended."""
        self._band, self._filled = None, 0
        header = stream_pb2.StreamHeader(
            input=type_to_wire(self.source.dtype, self.source.shape),
            steps=steps_to_wire(self.steps),
            allow_reordering=self.allow_reordering,
            first_output_row=self.done,
            band_rows=self.band_rows,
            compression=LZ4 if self.compression else NONE,
        )
        return stream_pb2.ConvolveStreamRequest(header=header).SerializeToString()

    def accepted(self, message: bytes) -> int:
        """Process the server's first answer.

        Returns:
            The first input row to send.

        Raises:
            DataLossError: the server violates the protocol.
        """
        accepted = _response(message).accepted
        dtype, shape = type_from_wire(accepted.output, "output", batch=True)
        resolved = geometries([s.spec for s in self.steps], self.source.shape, [s.kernel.shape for s in self.steps])
        rows = self.source.shape[0] * self.source.shape[2]
        if shape != resolved[-1].output_shape or not 0 <= accepted.first_input_row <= rows:
            raise DataLossError(f"the server accepted another stream than this: its output has shape {list(shape)}")
        if self.sink is None:
            self.sink = Sink(self.out, shape, dtype, unbatched=self.unbatched, wide=self.wide)
        self._row, self._total = ((shape[1], *shape[3:]), dtype), shape[0] * shape[2]
        self._compressed = accepted.compression == LZ4
        self.band_rows = accepted.band_rows  # a resumed stream uses the same bands, so no partial band is kept
        return accepted.first_input_row

    def chunks(self, row: int) -> Iterator[bytes]:
        """The messages from input row `row` to the last."""
        n, channels, height, *rest = self.source.shape
        row_bytes = channels * math.prod(rest) * self.source.dtype.itemsize
        at_once = max(1, CHUNK_BYTES // row_bytes)
        while row < n * height:
            stop = min(row + at_once, (row // height + 1) * height)
            rows = np.ascontiguousarray(self.source.rows(row, stop))
            data = rows.reshape(-1).view(np.uint8).data
            for at in range(0, len(data), CHUNK_BYTES):
                yield self._message(data[at : at + CHUNK_BYTES])
            row = stop

    def take(self, message: bytes) -> None:
        """Process a later answer: the start of a band, or a part of its data.

        Raises:
            DataLossError: the server violates the protocol.
        """
        data = unpacked(message)
        if data is None:
            response = _response(message)
            if response.HasField("compressed") and self._compressed:
                data = self._expanded(response.compressed)
        if data is None:
            if not response.HasField("band") or self._band is not None:
                raise DataLossError("the server sent a message that is neither a new band nor data")
            if not 0 <= response.band.start <= self.done < response.band.stop <= self._total:
                raise DataLossError(
                    f"the server sent rows {response.band.start} to {response.band.stop} after row {self.done}"
                )
            self._band, self._filled = response.band, 0
            return
        if self._band is None or self.sink is None:
            raise DataLossError("the server sent data outside a band")
        shape, dtype = self._row
        size = (self._band.stop - self._band.start) * math.prod(shape) * dtype.itemsize
        if self._filled + len(data) > size:
            raise DataLossError(f"the server sent more than the {size} bytes of the band")
        self._put(data, size)
        if self._filled == size:
            self._finish(self._band)

    def filled(self) -> Any:
        """The filled output, after the last answer.

        Raises:
            DataLossError: rows are missing.
        """
        if self.sink is None or self.done != self._total:
            raise DataLossError(f"the server sent {self.done} of {self._total} rows")
        return self.sink.out

    def close(self) -> None:
        """Close the progress bar, if there is one."""
        close(self.progress)

    def _expanded(self, chunk: stream_pb2.CompressedChunk) -> memoryview:
        try:
            return expanded(chunk, self._row[1].itemsize)
        except (InvalidArgumentError, ResourceExhaustedError) as error:
            raise DataLossError(f"the server sent a chunk that does not decompress: {error}") from None

    def _message(self, chunk: memoryview) -> bytes:
        small = compressed(chunk, self.source.dtype.itemsize) if self._compressed else None
        if small is None:
            return packed(chunk)
        return stream_pb2.ConvolveStreamRequest(compressed=small).SerializeToString()

    def _put(self, data: memoryview, size: int) -> None:
        """Write whole rows to a NumPy array at once; other data is collected until its band is complete."""
        shape, dtype = self._row
        row_bytes = math.prod(shape) * dtype.itemsize
        assert self._band is not None
        assert self.sink is not None
        received = np.frombuffer(data, np.uint8)
        if isinstance(self.sink.out, np.ndarray) and not (self._filled % row_bytes or len(data) % row_bytes):
            rows = received.view(dtype).reshape(-1, *shape)
            self.sink.write(self._band.start + self._filled // row_bytes, rows)
            self._filled += len(data)
            return
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        self._buffer[self._filled : self._filled + len(data)] = received
        self._filled += len(data)
        if self._filled == size:
            self.sink.write(self._band.start, self._buffer[:size].view(dtype).reshape(-1, *shape))

    def _finish(self, band: stream_pb2.StreamBand) -> None:
        self._band, self.done = None, band.stop
        self.source.forget(band.next_input_row)
        if self.progress is not None:
            shape, dtype = self._row
            received = self.done * math.prod(shape) * dtype.itemsize
            self.progress(Progress(self.done, self._total, received, time.monotonic() - self._began))


def _response(message: bytes) -> stream_pb2.ConvolveStreamResponse:
    try:
        return stream_pb2.ConvolveStreamResponse.FromString(message)
    except DecodeError:
        raise DataLossError(f"the server's message of {len(message)} bytes is not a ConvolveStreamResponse") from None


def transfer(
    source: Any,
    steps: Sequence[Step],
    *,
    shape: Sequence[int] | None = None,
    dtype: Any = None,
    out: Any = None,
    progress: ProgressCallback | bool | None = None,
    allow_reordering: bool = False,
    band_rows: int = 0,
    wire_dtype: Any = None,
    compression: Literal["lz4"] | None = None,
) -> Transfer:
    """Check the arguments of a stream before anything is sent.

    Args:
        source: anything with a shape, a dtype and slices by rows, or an iterator of bands of one sample.
        steps: at least one.
        shape: of an iterator's bands together, (1, C, H, …) or (C, H, …).
        dtype: of an iterator's bands.
        out: array to fill, or None.
        progress: called after each band; True shows a bar.
        allow_reordering: whether sums over input channels may be split between workers.
        band_rows: output rows of a band; 0 lets the server choose.
        wire_dtype: float16 or bfloat16, in which floats travel; None sends them as they are.
        compression: "lz4" compresses chunks if the server can; None sends them as they are.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    steps = checked_steps(steps)
    checked_output(out)
    if compression is not None and (compression != "lz4" or library() is None):
        raise InvalidArgumentError("compression", "None, or lz4 (pip install 'groupconv[lz4]')", compression)
    kernel = as_array(steps[0].kernel, "steps[0].kernel")
    rank = kernel.ndim - 2
    rows: Source
    if hasattr(source, "shape") and hasattr(source, "__getitem__"):
        check_apart(source, out)
        rows, dimensions = Sliced(source, rank, kernel.dtype), len(source.shape)
    else:
        if shape is None or dtype is None:
            raise InvalidArgumentError("shape", "shape and dtype, for an iterator of bands", shape)
        if not isinstance(shape, Sequence):
            raise InvalidArgumentError("shape", "the shape of all bands together", shape)
        dimensions = len(shape)
        rows = Iterated(source, (1, *shape) if dimensions == rank + 1 else tuple(shape), dtype, kernel.dtype)
    wide = None if wire_dtype is None else rows.dtype
    rows = rows if wire_dtype is None else Narrowed(rows, wire_dtype)
    ready = ready_steps(steps, rows.dtype)
    geometries([s.spec for s in ready], rows.shape, [s.kernel.shape for s in ready])
    return Transfer(
        rows,
        ready,
        out,
        dimensions == rank + 1,
        callback(progress),
        allow_reordering,
        band_rows,
        wide,
        compression is not None,
    )


def better_streamed(x: Tensor, steps: Sequence[Step]) -> bool:
    """Whether a stream is faster than a message: arrays are large, and no sample is needed as a whole.

    Args:
        x: (N, C, *spatial), from `prepare`.
        steps: from `prepare`.
    """
    resolved = geometries([s.spec for s in steps], x.shape, [s.kernel.shape for s in steps])
    if any(g.padding_mode == "circular" and g.padding[0] != (0, 0) for g in resolved):
        return False
    return max(x.nbytes, math.prod(resolved[-1].output_shape) * x.dtype.itemsize) > STREAM_ABOVE
