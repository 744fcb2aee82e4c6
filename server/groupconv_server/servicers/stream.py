"""StreamService: ConvolveStream.

The method takes and returns serialized messages, so that protobuf does not copy chunks (see `groupconv.wire.chunks`).
"""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import grpc

from groupconv.convolution.steps import Step
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import stream_pb2
from groupconv.wire.chunks import CHUNK_BYTES, packed, parsed, unpacked
from groupconv.wire.compress import compressed, expanded, library
from groupconv.wire.tensors import from_wire, type_from_wire, type_to_wire
from groupconv_server.admission.call import deadline_of
from groupconv_server.admission.pool import wait_for_client
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.problems import problems_of
from groupconv_server.coordinator.steps import specs_of
from groupconv_server.streaming.band_size import choose
from groupconv_server.streaming.budget import Budget
from groupconv_server.streaming.streams import BandOutput, Stream

SERVICE = stream_pb2.DESCRIPTOR.services_by_name["StreamService"].full_name
NONE, LZ4 = stream_pb2.COMPRESSION_UNSPECIFIED, stream_pb2.COMPRESSION_SHUFFLE_LZ4
Request, Response = stream_pb2.ConvolveStreamRequest, stream_pb2.ConvolveStreamResponse


class StreamServicer:
    """Computes convolutions while their input arrives.

    Attributes:
        budget: the memory of all streams.
    """

    def __init__(self, coordinator: Coordinator, budget: Budget | None = None) -> None:
        self.coordinator = coordinator
        self.budget = budget or Budget(coordinator.limits.streams_bytes)

    def add_to(self, server: grpc.Server) -> None:
        """Serve the method."""
        handler: Any = grpc.stream_stream_rpc_method_handler(self.ConvolveStream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ConvolveStream": handler}),))

    def ConvolveStream(  # noqa: N802 - the RPC's name
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Answer the header, then send each band as soon as it is computed."""
        inbox = _Inbox(requests, context)
        try:
            header = wait_for_client(inbox.header, self.coordinator.limits.stream_idle_seconds, context=context)
            with self._open(header, context) as stream:
                if not context.add_callback(stream.cancel):
                    return  # the call has ended already
                compress = header.compression == LZ4 and library() is not None
                yield _accepted(stream, LZ4 if compress else NONE)
                inbox.start(stream)
                itemsize = stream.bands.problems[-1].types.output.itemsize if compress else 0
                for output in stream.results():
                    yield from _messages(output, itemsize)
                    self.coordinator.metrics.bands.inc()
        finally:
            inbox.close()

    def _open(self, header: stream_pb2.StreamHeader, context: grpc.ServicerContext) -> Stream:
        c = self.coordinator
        dtype, shape = type_from_wire(header.input, "header.input", batch=True)
        steps = []
        for i, (message, spec) in enumerate(zip(header.steps, specs_of(header.steps), strict=True)):
            kernel = from_wire(message.kernel, f"steps[{i}].kernel")
            bias = from_wire(message.bias, f"steps[{i}].bias") if message.HasField("bias") else None
            steps.append(Step(kernel, bias, spec))
        if not 1 <= len(steps) <= c.limits.steps:
            raise InvalidArgumentError("steps", f"1 to {c.limits.steps} steps", len(steps))
        problems = problems_of(shape, dtype, steps)
        c.count_stream()
        bands = choose(problems, header.band_rows, c.limits, max(1, len(c.executor.workers())))
        return Stream(
            c,
            self.budget,
            problems,
            steps,
            bands,
            first_row=header.first_output_row,
            reordering=header.allow_reordering,
            deadline=deadline_of(context),
        )


class _Inbox:
    """A thread that reads the messages of a call: first the header, then the chunks for the stream."""

    def __init__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> None:
        self._requests, self._context = requests, context
        self._header: Future[stream_pb2.StreamHeader] = Future()
        self._stream: Future[Stream] = Future()
        threading.Thread(target=self._read, name="stream", daemon=True).start()

    def header(self, timeout: float) -> stream_pb2.StreamHeader:
        """Wait for the header."""
        try:
            return self._header.result(timeout)
        except TimeoutError:
            raise InvalidArgumentError("header", f"a header within {timeout:g} s", "nothing") from None
        finally:
            if self._header.done():
                self._header = Future()  # it keeps an error, which knows the frame of the thread, and that this object

    def start(self, stream: Stream) -> None:
        """Have the chunks go to `stream`."""
        self._stream.set_result(stream)

    def close(self) -> None:
        """Read no chunks if no stream was started. gRPC ends the iterator of requests."""
        self._stream.cancel()

    def _read(self) -> None:
        try:
            self._header.set_result(_header(next(self._requests, None)))
        except BaseException as error:  # noqa: BLE001 - `header` raises it
            self._header.set_exception(error)
            return
        try:
            stream = self._stream.result()
        except CancelledError:
            return
        stream.receive(self._chunks(stream.bands.problems[0].types.input.itemsize))

    def _chunks(self, itemsize: int) -> Iterator[memoryview]:
        for raw in self._requests:
            chunk = unpacked(raw)
            if chunk is None:
                message = parsed(Request, raw)
                kind = message.WhichOneof("message")
                if kind not in ("data", "compressed"):
                    raise InvalidArgumentError("data", "chunks after the header", _kind(message))
                chunk = memoryview(message.data) if kind == "data" else expanded(message.compressed, itemsize)
            yield chunk


def _header(raw: bytes | None) -> stream_pb2.StreamHeader:
    if raw is None:
        raise InvalidArgumentError("header", "a header as the first message", "the end of the stream")
    message = parsed(Request, raw)
    if not message.HasField("header"):
        raise InvalidArgumentError("header", "a header as the first message", _kind(message))
    header: stream_pb2.StreamHeader = message.header
    return header


def _kind(message: Any) -> str:
    return message.WhichOneof("message") or "an empty message"


def _accepted(stream: Stream, compression: stream_pb2.Compression.ValueType) -> bytes:
    last = stream.bands.problems[-1]
    accepted = stream_pb2.StreamAccepted(
        output=type_to_wire(last.types.output, last.geometry.output_shape),
        first_input_row=stream.first_input_row,
        first_output_row=stream.first_output_row,
        band_rows=stream.bands.rows,
        compression=compression,
    )
    return Response(accepted=accepted).SerializeToString()


def _messages(output: BandOutput, itemsize: int) -> Iterator[bytes]:
    """The messages of a band. Chunks are compressed as elements of `itemsize` bytes, unless it is 0."""
    rows, data = output.band.output, output.buffer.data
    band = stream_pb2.StreamBand(start=rows.start, stop=rows.stop, next_input_row=output.next_input_row)
    yield Response(band=band).SerializeToString()
    row = len(data) // (rows.stop - rows.start)
    size = max(1, CHUNK_BYTES // row) * row if row <= CHUNK_BYTES else CHUNK_BYTES  # whole rows if they fit
    for at in range(0, len(data), size):
        chunk = data[at : at + size]
        packed_small = compressed(chunk, itemsize) if itemsize else None
        yield packed(chunk) if packed_small is None else Response(compressed=packed_small).SerializeToString()
