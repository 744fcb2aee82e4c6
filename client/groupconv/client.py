"""The blocking client: `groupconv.connect(...)`."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import grpc

from groupconv.convolutions import Convolutions
from groupconv.errors import GroupconvError, UnavailableError
from groupconv.layer import Layer, LayerInfo, info_from_wire, layer_input, layer_request, load_messages
from groupconv.options import Call
from groupconv.plan import Plan
from groupconv.progress import Shown
from groupconv.requests import (
    CONVOLVE,
    Array,
    Result,
    Step,
    convolve_request,
    plan_request,
    prepare,
    read_answer,
    result_of,
)
from groupconv.rpc import Connection, Metadata, Pem, from_rpc_error
from groupconv.shared import Ask, Mode, Shared, Talk, advance, empty, shared_memory_of
from groupconv.spec import ConvSpec
from groupconv.stream import STREAM, Attempts, Transfer, pays, transfer
from groupconv.tensors import MAX_MESSAGE_BYTES
from groupconv.v1 import cluster_pb2, cluster_pb2_grpc, convolution_pb2_grpc, layer_pb2, layer_pb2_grpc
from groupconv.wire import plan_from_wire


def connect(
    target: str,
    *,
    timeout: float | None = 300.0,
    token: str | None = None,
    tls: bool = False,
    root_certificates: Pem | None = None,
    client_certificate: Pem | None = None,
    client_key: Pem | None = None,
    server_name: str | None = None,
    allow_plaintext_token: bool = False,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    shared_memory: Mode = False,
) -> "Client":
    """A client of the server at `target`. Nothing is sent until the first call.

    Args:
        target: "host:port" or "unix:path".
        timeout: seconds a call may take, unless the call says otherwise; None waits for ever.
        token: bearer token; None takes the environment's GROUPCONV_TOKEN, "" sends none. It travels over TLS or on this
            machine only.
        tls: encrypt, trusting the system's certificates.
        root_certificates: PEM, or the path of a file of it, to trust in their place; implies TLS.
        client_certificate: likewise, what the server knows this client by (mutual TLS).
        client_key: likewise, its key.
        server_name: the name in the server's certificate, where it differs from the target's.
        allow_plaintext_token: send the token over a network in the clear.
        max_message_bytes: the largest request or answer.
        shared_memory: whether tensors go through shared memory, of a server on this machine that allows it
            (docs/shared-memory.md). True: a server that cannot is a FailedPreconditionError at the first call; "auto":
            the client then goes without.

    Raises:
        InvalidArgumentError: a token that would travel in the clear, or what is no certificate.
        OSError: a certificate's file that cannot be read.

    Example:
        >>> with connect("localhost:50051") as client:
        ...     client.target
        'localhost:50051'
    """
    connection = Connection(
        target,
        token=token,
        tls=tls,
        root_certificates=root_certificates,
        client_certificate=client_certificate,
        client_key=client_key,
        server_name=server_name,
        allow_plaintext_token=allow_plaintext_token,
        max_message_bytes=max_message_bytes,
    )
    shared = shared_memory_of(shared_memory)
    return Client(connection.open(), target=target, timeout=timeout, metadata=connection.metadata, shared=shared)


class Client(Convolutions[Array]):
    """Calls a groupconv server. Safe to share between threads; close it, or use it as a context manager.

    Beside the convolution functions: `run` for several steps and how they were done, `plan`, `status`.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        target: str,
        timeout: float | None,
        metadata: Metadata = (),
        shared: Shared | None = None,
    ) -> None:
        self._shared = shared
        self.target, self.timeout = target, timeout
        self._metadata = metadata
        self._channel = channel
        self._convolution = convolution_pb2_grpc.ConvolutionServiceStub(channel)
        self._cluster = cluster_pb2_grpc.ClusterServiceStub(channel)
        self._convolve: Any = channel.unary_unary(CONVOLVE, response_deserializer=read_answer)  # bytes are sent
        self._layers = layer_pb2_grpc.LayerServiceStub(channel)

    def run(
        self,
        x: Any,
        steps: Sequence[Step],
        *,
        out: Array | None = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
    ) -> Result:
        """Run steps one after another on `x` in one request, and tell how it was done.

        Args:
            x: (N, C, *spatial), or (C, *spatial) for one sample.
            steps: at least one; the output of each is the input of the next.
            out: array of the answer's shape and dtype to fill.
            timeout: seconds, in place of the client's.
            allow_reordering: whether sums over input channels may be taken in parts on several workers where that is
                faster; it changes how floats round.

        Raises:
            InvalidArgumentError: naming the field, what was expected and what came.
            GroupconvError: the subclass of the status the server answered with.
        """
        call = Call(out=out, timeout=timeout, allow_reordering=allow_reordering)
        return self._unary(*prepare(x, steps), call)

    def plan(
        self,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        spec: ConvSpec | None = None,
        *,
        dtype: Any = "float32",
        timeout: float | None = None,
        allow_reordering: bool = False,
    ) -> Plan:
        """How the server would cut a convolution of these shapes; `print(plan)` shows the table."""
        return self.plan_steps(
            input_shape,
            [weight_shape],
            [spec or ConvSpec()],
            dtype=dtype,
            timeout=timeout,
            allow_reordering=allow_reordering,
        )

    def plan_steps(
        self,
        input_shape: Sequence[int],
        weight_shapes: Sequence[Sequence[int]],
        specs: Sequence[ConvSpec],
        *,
        dtype: Any = "float32",
        timeout: float | None = None,
        allow_reordering: bool = False,
    ) -> Plan:
        """How the server would cut several steps, each on the output of the one before."""
        request = plan_request(input_shape, weight_shapes, specs, dtype, allow_reordering=allow_reordering)
        return plan_from_wire(self._call(self._convolution.PlanConvolution, request, timeout).plan)

    def load_layer(
        self,
        name: str,
        weight: Any,
        bias: Any = None,
        spec: ConvSpec | None = None,
        *,
        dtype: Any = None,
        inputs: Sequence[Sequence[int]] = (),
        timeout: float | None = None,
    ) -> Layer:
        """Leave a convolution's weights on the server, prepared on its workers; the layer is then called with inputs.

        Under a name that exists this is a new version, which later requests get.

        Args:
            name: segments of letters, digits, '.', '_' and '-' with '/' between, as "alexnet/conv2".
            weight: (M, C/g, *kernel), transposed (C, M/g, *kernel).
            bias: (M,) or None.
            spec: the convolution.
            dtype: of the weights; None leaves them as they are.
            inputs: shapes (N, C, *spatial) to expect: the workers prepare and tune for them now, not at the first
                request. Of a layer that is replaced they are known.
            timeout: seconds, in place of the client's.

        Raises:
            InvalidArgumentError: naming the field, what was expected and what came.
            ResourceExhaustedError: the server's layers would take more memory than it allows.
        """
        return self.load_layer_steps(
            name, [Step(weight, bias, spec or ConvSpec())], dtype=dtype, inputs=inputs, timeout=timeout
        )

    def load_layer_steps(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        dtype: Any = None,
        inputs: Sequence[Sequence[int]] = (),
        timeout: float | None = None,
    ) -> Layer:
        """`load_layer` for several steps, each on the output of the one before."""
        answer = self._call(self._layers.LoadLayer, load_messages(name, steps, dtype, inputs), timeout)
        return self._layer(info_from_wire(answer.layer))

    def get_layer(self, name: str) -> Layer:
        """A layer that is loaded already.

        Raises:
            NotFoundError: there is none of that name.
        """
        answer = self._call(self._layers.GetLayer, layer_pb2.GetLayerRequest(name=name), None)
        return self._layer(info_from_wire(answer.layer))

    def list_layers(self) -> list[LayerInfo]:
        """What the server says of every layer, by name."""
        answer = self._call(self._layers.ListLayers, layer_pb2.ListLayersRequest(), None)
        return [info_from_wire(layer) for layer in answer.layers]

    def unload_layer(self, name: str) -> None:
        """Let the server forget a layer; its running requests end first.

        Raises:
            NotFoundError: there is none of that name.
        """
        self._call(self._layers.UnloadLayer, layer_pb2.UnloadLayerRequest(name=name), None)

    def status(self, *, timeout: float | None = None) -> cluster_pb2.GetClusterResponse:
        """Version, executor and workers of the server."""
        response: cluster_pb2.GetClusterResponse = self._call(
            self._cluster.GetCluster, cluster_pb2.GetClusterRequest(), timeout
        )
        return response

    def empty(self, shape: int | Sequence[int], dtype: Any = "float32") -> Array:
        """An array to be filled and given to calls, which need not copy it where the client shares memory.

        As with numpy.empty its elements are anything. Without shared memory, or room in it, it is an ordinary array.

        Args:
            shape: extents.
            dtype: NumPy's, or a name as "bfloat16".

        Example:
            with groupconv.connect("localhost:50051", shared_memory="auto") as client:
                x = client.empty((1, 96, 27, 27))
                camera.read_into(x)
                y = client.conv2d(x, w, padding=2, groups=2)
        """
        made = empty(shape, dtype)
        return made if self._shared is None else self._talk(self._shared.empty(made), None)

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled. Arrays in shared memory stay as they are."""
        if self._shared is not None:
            for ask in self._shared.close():
                with contextlib.suppress(GroupconvError, ValueError):  # the server lets it go by itself in time
                    self._call(self._channel.unary_unary(ask.method), ask.message, 1.0)
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def stream_conv2d(
        self,
        source: Any,
        weight: Any,
        bias: Any = None,
        *,
        shape: Sequence[int] | None = None,
        dtype: Any = None,
        out: Any = None,
        progress: Shown | bool | None = None,
        timeout: float | None = None,
        wire_dtype: Any = None,
        compression: Literal["lz4"] | None = None,
        **options: Any,
    ) -> Any:
        """`conv2d` of an image of any size, computed while it travels; arguments as in `stream_convolve`.

        Args:
            source: (N, C, H, W) or (C, H, W), anything with slices by rows, or an iterator of bands.
            weight: (M, C/g, K, K).
            bias: (M,).
            shape: as in `stream_convolve`.
            dtype: likewise.
            out: likewise.
            progress: likewise.
            timeout: likewise.
            wire_dtype: likewise.
            compression: likewise.
            options: of `ConvSpec`.
        """
        steps = [Step(weight, bias, ConvSpec(**options))]
        return self.stream_convolve(
            source,
            steps,
            shape=shape,
            dtype=dtype,
            out=out,
            progress=progress,
            timeout=timeout,
            wire_dtype=wire_dtype,
            compression=compression,
        )

    def stream_convolve(
        self,
        source: Any,
        steps: Sequence[Step],
        *,
        shape: Sequence[int] | None = None,
        dtype: Any = None,
        out: Any = None,
        progress: Shown | bool | None = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
        band_rows: int = 0,
        wire_dtype: Any = None,
        compression: Literal["lz4"] | None = None,
    ) -> Any:
        """Run steps on a feature map of any size, in bands, each computed as soon as its rows are there.

        A lost connection is opened again and the stream goes on after the last complete band.

        Args:
            source: (N, C, *spatial), or without N: anything with a shape, a dtype and slices by rows (numpy.memmap,
                Zarr, HDF5), or an iterator of bands (C, rows, …) of one sample, which needs `shape` and `dtype`.
            steps: at least one; the output of each is the input of the next.
            shape: of an iterator's bands together.
            dtype: of an iterator's bands.
            out: what is filled, by rows: an array, a memory map, a Zarr or HDF5 array of the output's shape and dtype;
                None makes an array.
            progress: called with a `Progress` after each band; True shows a bar (tqdm, extra `progress`).
            timeout: seconds; None waits for as long as it takes, whatever the client's timeout is.
            allow_reordering: as in `run`.
            band_rows: output rows of a band; 0 lets the server choose.
            wire_dtype: float16 or bfloat16: floats travel in half the bytes or less, and are rounded (docs/streaming.md
                says by how much); `out` keeps the input's dtype.
            compression: "lz4" compresses chunks without loss where the server can, for slow networks (extra `lz4`).

        Returns:
            `out`, or the array made.

        Raises:
            InvalidArgumentError: naming the field, what was expected and what came.
            GroupconvError: the subclass of the status the server answered with.
        """
        made = transfer(
            source,
            steps,
            shape=shape,
            dtype=dtype,
            out=out,
            progress=progress,
            allow_reordering=allow_reordering,
            band_rows=band_rows,
            wire_dtype=wire_dtype,
            compression=compression,
        )
        return self._stream(made, timeout)

    def _layer(self, info: LayerInfo) -> Layer:
        return Layer(info, self._run_layer, self.get_layer, self.unload_layer)

    def _run_layer(
        self,
        info: LayerInfo,
        x: Any,
        *,
        out: Array | None = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
        report: bool = False,
    ) -> Result:
        if self._shared is not None:
            array, unbatched = layer_input(info, x)
            talk = self._shared.run_layer(array, info, allow_reordering=allow_reordering, report=report)
            if talk is not None:
                return result_of(self._talk(talk, timeout), unbatched=unbatched, out=out)
        request, unbatched = layer_request(info, x, report=report, allow_reordering=allow_reordering)
        return result_of(self._call(self._convolve, request, timeout), unbatched=unbatched, out=out)

    def _unary(
        self, array: Array, ready: Sequence[Step], unbatched: bool, call: Call, *, report: bool = True
    ) -> Result:
        reordering = call.get("allow_reordering", False)
        if self._shared is not None:
            talk = self._shared.run_steps(array, ready, allow_reordering=reordering, report=report)
            answer = self._talk(talk, call.get("timeout"))
            return result_of(answer, unbatched=unbatched, out=call.get("out"))
        request = convolve_request(array, ready, allow_reordering=reordering, report=report)
        answer = self._call(self._convolve, request, call.get("timeout"))
        return result_of(answer, unbatched=unbatched, out=call.get("out"))

    def _answer(self, x: Any, steps: Sequence[Step], call: Call) -> Array:
        array, ready, unbatched = prepare(x, steps)
        shared = self._shared
        if not pays(array, ready) or (shared and self._talk(shared.fits(array, ready), call.get("timeout"))):
            return self._unary(array, ready, unbatched, call, report=False).output
        reordering = call.get("allow_reordering", False)
        made = transfer(array[0] if unbatched else array, ready, out=call.get("out"), allow_reordering=reordering)
        timeout = call.get("timeout")
        answer: Array = self._stream(made, self.timeout if timeout is None else timeout)
        return answer

    def _talk(self, talk: Talk[Any], timeout: float | None) -> Any:
        """Make the calls that a generator asks for, and give what it returns."""
        told = advance(talk)
        while isinstance(told, Ask):
            try:
                answer = self._call(self._channel.unary_unary(told.method), told.message, timeout)
            except BaseException as error:  # noqa: BLE001 - the generator's to judge
                told = advance(talk, error=error)
            else:
                told = advance(talk, answer)
        return told.value

    def _stream(self, made: Transfer, timeout: float | None) -> Any:
        """Attempts until it is done; only a lost connection is tried again, with growing pauses."""
        attempts = Attempts(made, timeout)
        with contextlib.closing(made):
            while True:
                try:
                    self._attempt(made, attempts.left())
                except UnavailableError as error:
                    time.sleep(attempts.pause_after(error))
                else:
                    return made.filled()

    def _opened(self) -> Any:
        return self._channel.stream_stream(STREAM)  # no serializers: bytes in, bytes out

    def _attempt(self, made: Transfer, timeout: float | None) -> None:
        """One connection: gRPC's thread sends while this one receives."""
        begin = threading.Event()
        first: list[int] = []
        failed: list[Exception] = []

        def messages() -> Iterator[bytes]:
            yield made.header()
            begin.wait()
            try:
                if first:
                    yield from made.chunks(first[0])
            except Exception as error:  # noqa: BLE001 - the source's own, raised below
                failed.append(error)
                call.cancel()

        call: Any = self._opened()(messages(), timeout=timeout, metadata=self._metadata)
        try:
            first.append(made.accepted(next(call)))
            begin.set()
            for message in call:
                made.take(message)
        except grpc.RpcError as error:
            if failed:
                raise failed[0] from None
            raise from_rpc_error(error) from None
        finally:
            begin.set()
            call.cancel()

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=self.timeout if timeout is None else timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
