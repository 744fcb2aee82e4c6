"""The blocking client: `groupconv.connect(...)`."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from groupconv import calls, network_calls
from groupconv.convolution.plan import Plan
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Array, Result, Step
from groupconv.convolutions import Convolutions
from groupconv.layer import Layer, LayerInfo
from groupconv.memory.shared import Mode, shared_memory_of
from groupconv.network import Network
from groupconv.networks.info import NetworkInfo
from groupconv.options import CallOptions, StreamConv, Streaming, split_streaming
from groupconv.session import Session
from groupconv.streaming.stream import Transfer, transfer
from groupconv.transport.channel import Connection, Pem
from groupconv.v1 import cluster_pb2
from groupconv.wire.tensors import MAX_MESSAGE_BYTES


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
        shared_memory: whether tensors go through shared memory, of a server on this machine that allows it, and
            arrays on a GPU stay there if the server has it (docs/shared-memory.md). True: a server that cannot share
            memory is a FailedPreconditionError at the first call; "auto": the client then goes without.

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


class Client(Session, Convolutions[Array]):
    """Calls a groupconv server. Safe to share between threads; close it, or use it as a context manager.

    Beside the convolution functions: `run` for several steps and how they were done, `plan`, `status`.
    """

    def run(
        self,
        x: Any,
        steps: Sequence[Step],
        *,
        out: Any = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
    ) -> Result:
        """Run steps one after another on `x` in one request, and tell how it was done.

        Args:
            x: (N, C, *spatial), or (C, *spatial) for one sample.
            steps: at least one; the output of each is the input of the next.
            out: array of the answer's shape and dtype to fill and to return, on the host or on a GPU.
            timeout: seconds, in place of the client's.
            allow_reordering: whether sums over input channels may be taken in parts on several workers where that is
                faster; it changes how floats round.

        Raises:
            InvalidArgumentError: naming the field, what was expected and what came.
            GroupconvError: the subclass of the status the server answered with.
        """
        call = CallOptions(out=out, timeout=timeout, allow_reordering=allow_reordering)
        return self._run_exchange(calls.run(self._shared, x, steps, call), timeout)

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
        exchange = calls.plan(input_shape, weight_shapes, specs, dtype, allow_reordering=allow_reordering)
        return self._run_exchange(exchange, timeout)

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
        answer = self._upload(calls.LOAD, calls.load(name, steps, dtype, inputs), timeout)
        return self._layer(calls.loaded(answer))

    def get_layer(self, name: str) -> Layer:
        """A layer that is loaded already.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._layer(self._run_exchange(calls.get_layer(name)))

    def list_layers(self) -> list[LayerInfo]:
        """What the server says of every layer, by name."""
        return self._run_exchange(calls.list_layers())

    def unload_layer(self, name: str) -> None:
        """Let the server forget a layer; its running requests end first.

        Raises:
            NotFoundError: there is none of that name.
        """
        self._run_exchange(calls.unload_layer(name))

    def load_network(
        self,
        name: str,
        model: Any,
        *,
        inputs: Sequence[Mapping[str, Sequence[int]]] = (),
        timeout: float | None = None,
    ) -> Network:
        """Leave a whole network on the server; it is then called with its inputs.

        Under a name that exists this is a new version, which later requests get.

        Args:
            name: segments of letters, digits, '.', '_' and '-' with '/' between, as "ocr/det".
            model: an ONNX file: its path, its bytes, or anything with `SerializeToString()`. Weights in other files
                have to be put into it first.
            inputs: sets of input shapes to prepare for, as `[{"x": (1, 3, 640, 640)}]`.
            timeout: seconds, in place of the client's.

        Raises:
            InvalidArgumentError: naming the node at fault, what was expected and what came.
            ResourceExhaustedError: the server's layers and networks would take more memory than it allows.
        """
        messages = network_calls.load(name, network_calls.model_bytes(model), inputs)
        return self._network(network_calls.loaded(self._upload(network_calls.LOAD, messages, timeout)))

    def get_network(self, name: str) -> Network:
        """A network that is loaded already.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._network(self._run_exchange(network_calls.get_network(name)))

    def list_networks(self) -> list[NetworkInfo]:
        """What the server says of every network, by name."""
        return self._run_exchange(network_calls.list_networks())

    def unload_network(self, name: str) -> None:
        """Remove a network from the server; its running requests end first.

        Raises:
            NotFoundError: there is none of that name.
        """
        self._run_exchange(network_calls.unload_network(name))

    def status(self, *, timeout: float | None = None) -> cluster_pb2.GetClusterResponse:
        """Version, executor and workers of the server."""
        return self._run_exchange(calls.status(), timeout)

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
        return self._run_exchange(calls.empty(self._shared, shape, dtype))

    def stream_conv2d(
        self, source: Any, weight: Any, bias: Any = None, *, timeout: float | None = None, **options: Unpack[StreamConv]
    ) -> Any:
        """`conv2d` of an image of any size, computed while it travels.

        Args:
            source: (N, C, H, W) or (C, H, W), anything with slices by rows, or an iterator of bands.
            weight: (M, C/g, K, K).
            bias: (M,).
            timeout: as in `stream_convolve`.
            options: as in `stream_convolve`, and of `ConvSpec`.
        """
        spec, streaming = split_streaming(options)
        return self.stream_convolve(source, [Step(weight, bias, spec)], timeout=timeout, **streaming)

    def stream_convolve(
        self, source: Any, steps: Sequence[Step], *, timeout: float | None = None, **options: Unpack[Streaming]
    ) -> Any:
        """Run steps on a feature map of any size, in bands, each computed as soon as its rows are there.

        A lost connection is opened again and the stream goes on after the last complete band.

        Args:
            source: (N, C, *spatial), or without N: anything with a shape, a dtype and slices by rows (numpy.memmap,
                Zarr, HDF5), or an iterator of bands (C, rows, …) of one sample, which needs `shape` and `dtype`.
            steps: at least one; the output of each is the input of the next.
            timeout: seconds; None waits for as long as it takes, whatever the client's timeout is.
            options: any of those below.

        Keywords:
            shape: of an iterator's bands together.
            dtype: of an iterator's bands.
            out: what is filled, by rows: an array, a memory map, a Zarr or HDF5 array of the output's shape and dtype;
                None makes an array.
            progress: called with a `Progress` after each band; True shows a bar (tqdm, extra `progress`).
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
        return self._stream(transfer(source, steps, **options), timeout)

    def _answer(self, x: Any, steps: Sequence[Step], call: CallOptions) -> Array:
        timeout = call.get("timeout")
        output = self._run_exchange(calls.output(self._shared, x, steps, call), timeout)
        return self._stream(output, self._seconds(timeout)) if isinstance(output, Transfer) else output

    def _network(self, info: NetworkInfo) -> Network:
        return Network(info, self._run_exchange, self.get_network, self.unload_network)

    def _layer(self, info: LayerInfo) -> Layer:
        return Layer(info, self._shared, self._run_exchange, self.get_layer, self.unload_layer)
