"""The blocking client; `groupconv.connect(...)` makes one."""

from collections.abc import Sequence
from typing import Any, Unpack

from groupconv import calls
from groupconv.convolution.plan import Plan
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Array, Result, Step
from groupconv.convolutions import Convolutions
from groupconv.layer import Layer, LayerInfo
from groupconv.layouts import Layout
from groupconv.memory.shared import Mode, shared_memory_of
from groupconv.network_client import NetworkClient
from groupconv.options import CallOptions, StreamConv, Streaming, check_names, spec_or_default, split_streaming
from groupconv.planning import Planning
from groupconv.streaming.stream import Transfer, transfer
from groupconv.transport.channel import Connection, Pem
from groupconv.transport.exchange import Exchange
from groupconv.v1 import cluster_pb2
from groupconv.wire.tensors import MAX_MESSAGE_BYTES


class Client(NetworkClient, Planning[Plan], Convolutions[Array]):
    """A client of a groupconv server, which threads may share. Close it, or use it as a context manager.

    Example:
        x = np.ones((1, 96, 27, 27), np.float32)  # (N, C, H, W)
        w = np.ones((256, 48, 5, 5), np.float32)  # (M, C/groups, K, K)
        with groupconv.connect("localhost:50051") as client:  # a server runs: `groupconv serve`
            y = client.conv2d(x, w, padding=2, groups=2)  # (1, 256, 27, 27)
    """

    def run(
        self,
        x: Any,
        steps: Sequence[Step],
        *,
        out: Any = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
        cut: str | None = None,
        layout: Layout | None = None,
    ) -> Result:
        """Run steps in one request, and report how the server computed them.

        Args:
            x: (N, C, *spatial), or (C, *spatial) for one sample, on the host or on a GPU.
            steps: at least one; the output of each is the input of the next.
            out: array of the output's shape and dtype to fill, on the host or on a GPU; None makes a NumPy array.
            timeout: seconds, in place of the client's.
            allow_reordering: whether sums over input channels may be split between workers if that is faster; this
                changes how floats round.
            cut: what to cut every step along, in place of the planner's choice: "nothing", "group", "batch", "filter",
                "channel" (with `allow_reordering`), a spatial axis ("width" in 1-D, "rows" or "columns" in 2-D, in 3-D
                also "slices"), or several such as "group × rows". The answer then comes in one message.
            layout: "NHWC" for channels last in `x`, `out` and the answer. Views are taken on the host and on a device,
                so it costs no copy. The answer comes in one message.

        Returns:
            The output (N, M, *spatial), or (M, *spatial) for one sample, and a report.

        Raises:
            InvalidArgumentError: an argument is invalid; it names the field, what was expected and what came.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.

        Example:
            x, w1, w2 = (np.ones(s, np.float32) for s in [(1, 3, 32, 32), (8, 3, 3, 3), (4, 8, 1, 1)])
            result = client.run(x, [groupconv.Step(w1), groupconv.Step(w2)])
            print(result.output.shape, result.report)
        """
        call = CallOptions(out=out, timeout=timeout, allow_reordering=allow_reordering, cut=cut, layout=layout)
        return self._run_exchange(calls.run(self._shared, x, steps, call), timeout)

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
        """Load a convolution's weights on the server, where the workers prepare them. Call the layer with inputs.

        If the name exists, this loads a new version of the layer, which later requests use.

        Args:
            name: segments of letters, digits, '.', '_' and '-' with '/' between them, such as "alexnet/conv2".
            weight: (M, C/g, *kernel); transposed: (C, M/g, *kernel).
            bias: (M,) or None.
            spec: the parameters; None takes the defaults.
            dtype: a float dtype to convert the weights to; None leaves them as they are.
            inputs: shapes (N, C, *spatial) for which the workers prepare and tune now, rather than at the first
                request. A new version takes over the shapes of the old one.
            timeout: seconds, in place of the client's.

        Raises:
            InvalidArgumentError: an argument is invalid; it names the field, what was expected and what came.
            ResourceExhaustedError: the server's layers would take more memory than it allows.
        """
        return self.load_layer_steps(
            name, [Step(weight, bias, spec_or_default(spec))], dtype=dtype, inputs=inputs, timeout=timeout
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
        """Load a layer of several steps, each on the output of the one before; see `load_layer`."""
        answer = self._upload(calls.LOAD, calls.load(name, steps, dtype, inputs), timeout)
        return self._layer(calls.loaded(answer))

    def get_layer(self, name: str) -> Layer:
        """A layer that is already on the server.

        Raises:
            NotFoundError: there is no layer of this name.
        """
        return self._layer(self._run_exchange(calls.get_layer(name)))

    def list_layers(self) -> list[LayerInfo]:
        """The server's descriptions of all layers, sorted by name."""
        return self._run_exchange(calls.list_layers())

    def unload_layer(self, name: str) -> None:
        """Remove a layer from the server, after its running requests have ended.

        Raises:
            NotFoundError: there is no layer of this name.
        """
        self._run_exchange(calls.unload_layer(name))

    def status(self, *, timeout: float | None = None) -> cluster_pb2.GetClusterResponse:
        """The server's version, executor and workers."""
        return self._run_exchange(calls.status(), timeout)

    def empty(self, shape: int | Sequence[int], dtype: Any = "float32") -> Array:
        """A new array for inputs. In shared memory, calls send a reference to it in place of a copy.

        As with numpy.empty, its elements are arbitrary. Without shared memory, or space in it, it is an ordinary array.

        Args:
            shape: extents.
            dtype: a supported one, such as np.float32 or "bfloat16".

        Raises:
            InvalidArgumentError: the dtype is not supported.

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
        """A 2-D convolution of an image of any size, in bands that are computed while others travel.

        Args:
            source: (N, C, H, W) or (C, H, W), anything with slices by rows; or an iterator of bands.
            weight: (M, C/g, K, K); transposed: (C, M/g, K, K).
            bias: (M,) or None.
            timeout: as in `stream_convolve`.
            options: those of `stream_convolve` and of `ConvSpec`.

        Returns:
            `out`, or a new array (N, M, H', W') or (M, H', W').

        Example:
            x = groupconv.open_npy("huge.npy")  # (1, H, W)
            y = groupconv.create_npy("soft.npy", x.shape, "float32")
            client.stream_conv2d(x, np.full((1, 1, 5, 5), 1 / 25, np.float32), padding=2, out=y, progress=True)
        """
        spec, streaming = split_streaming(options)
        return self.stream_convolve(source, [Step(weight, bias, spec)], timeout=timeout, **streaming)

    def stream_convolve(
        self, source: Any, steps: Sequence[Step], *, timeout: float | None = None, **options: Unpack[Streaming]
    ) -> Any:
        """Run steps on a feature map of any size, in bands. Each band is computed as soon as its rows arrive.

        If the connection is lost, the stream connects again and continues after the last complete band.

        Args:
            source: (N, C, *spatial) or (C, *spatial): anything with a shape, a dtype and slices by rows
                (`groupconv.open_npy`, Zarr, HDF5); or an iterator of bands (C, rows, …) of one sample, which needs
                `shape` and `dtype`.
            steps: at least one; the output of each is the input of the next.
            timeout: seconds; None has no limit, whatever the client's timeout is.
            options: see below.

        Options:
            shape: of an iterator's bands together.
            dtype: of an iterator's bands.
            out: array to fill by rows: a NumPy array, `groupconv.create_npy`, or a Zarr or HDF5 array of the output's
                shape and dtype; None makes a NumPy array.
            progress: function to call with a `Progress` after each band; True shows a bar (tqdm, extra `progress`).
            allow_reordering: see `run`.
            band_rows: output rows of a band; 0 lets the server choose.
            wire_dtype: float16 or bfloat16, to send floats in fewer bytes with rounding (docs/streaming.md gives the
                errors); `out` keeps the input's dtype.
            compression: "lz4" compresses chunks without loss if the server can, for slow networks (extra `lz4`).

        Returns:
            `out`, or a new array.

        Raises:
            InvalidArgumentError: an argument is invalid; it names the field, what was expected and what came.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.
        """
        check_names(options, Streaming.__annotations__)
        return self._stream(transfer(source, steps, **options), timeout)

    def _answer(self, x: Any, steps: Sequence[Step], call: CallOptions) -> Array:
        timeout = call.get("timeout")
        output = self._run_exchange(calls.output(self._shared, x, steps, call), timeout)
        return self._stream(output, self._seconds(timeout)) if isinstance(output, Transfer) else output

    def _plan(self, exchange: Exchange[Plan], timeout: float | None) -> Plan:
        return self._run_exchange(exchange, timeout)

    def _layer(self, info: LayerInfo) -> Layer:
        return Layer(info, self._shared, self._run_exchange, self.get_layer, self.unload_layer)


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
    connections: int = 1,
    balance: bool = False,
    shared_memory: Mode = False,
) -> Client:
    """A client of the server at `target`. It connects at the first call.

    Args:
        target: "host:port" or "unix:path".
        timeout: seconds that a call may take, unless the call sets its own; None waits forever.
        token: bearer token; None takes the environment's GROUPCONV_TOKEN, "" sends none. It is only sent over TLS or
            within this machine.
        tls: whether to encrypt, trusting the system's certificates.
        root_certificates: certificates to trust instead, as PEM or the path of a PEM file; implies TLS.
        client_certificate: certificate of this client for mutual TLS, as PEM or the path of a PEM file.
        client_key: key of the client's certificate, as PEM or the path of a PEM file.
        server_name: name in the server's certificate, if it is not the target's host.
        allow_plaintext_token: whether to send the token over a network without TLS.
        max_message_bytes: largest request or answer, in bytes.
        connections: connections that calls take in turn, 1 to 64. A server of several processes answers each in one
            of them (docs/processes.md).
        balance: whether calls go in turn to all addresses of the target, as in "ipv4:10.0.0.1:50051,10.0.0.2:50051" or
            "dns:///host:50051". Servers that are lost are left out until they return. Such a client loads and unloads
            nothing, and shares no memory (docs/deployment.md#two-coordinators).
        shared_memory: whether tensors go through shared memory if the server is on this machine and allows it, and
            arrays on a GPU stay there if the server has that GPU (docs/shared-memory.md). With True, a server that
            cannot share memory is a FailedPreconditionError at the first call; with "auto" the client sends messages.

    Raises:
        InvalidArgumentError: the token would travel unencrypted, a certificate is not PEM, or another argument is
            invalid.
        OSError: a certificate's file cannot be read.

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
        connections=connections,
        balance=balance,
    )
    shared = shared_memory_of(shared_memory, balance=balance)
    return Client(connection.open(), connection, timeout=timeout, shared=shared)
