"""The part of the blocking client that is about networks."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from groupconv import network_calls
from groupconv.network import BaseNetwork, Network
from groupconv.networks.info import NetworkInfo
from groupconv.networks.windows import StreamPlan
from groupconv.options import check_names
from groupconv.streaming.network import NetworkStream, NetworkStreaming
from groupconv.streaming.progress import ProgressCallback, reported
from groupconv.streaming.session import StreamSession


class NetworkClient(StreamSession):
    """Loads, finds, streams and unloads networks."""

    def load_network(
        self,
        name: str,
        model: Any,
        *,
        inputs: Sequence[Mapping[str, Sequence[int]]] = (),
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> Network:
        """Load a whole network on the server. Call the network with its inputs.

        If the name exists, this loads a new version of the network, which later requests use.

        Args:
            name: segments of letters, digits, '.', '_' and '-' with '/' between them, such as "ocr/det".
            model: an ONNX file: its path, its bytes, or anything with `SerializeToString()`. It must hold its weights.
            inputs: sets of input shapes to prepare for, such as `[{"x": (1, 3, 640, 640)}]`.
            progress: function to call with a `Progress` after each part of the model that was sent; True shows a bar.
            timeout: seconds, in place of the client's.

        Raises:
            InvalidArgumentError: a node is not supported; it names the node, what was expected and what came.
            ResourceExhaustedError: the server's layers and networks would take more memory than it allows.
        """
        data = network_calls.model_bytes(model)
        with reported(network_calls.load(name, data, inputs), len(data), progress) as messages:
            return self._network(network_calls.loaded(self._upload(network_calls.LOAD, messages, timeout)))

    def get_network(self, name: str) -> Network:
        """A network that is already on the server; NotFoundError if there is none of this name."""
        return self._network(self._run_exchange(network_calls.get_network(name)))

    def list_networks(self) -> list[NetworkInfo]:
        """The server's descriptions of all networks, sorted by name."""
        return self._run_exchange(network_calls.list_networks())

    def unload_network(self, name: str) -> None:
        """Remove a network from the server, after its running requests; NotFoundError if there is none of this name."""
        self._run_exchange(network_calls.unload_network(name))

    def stream_network(
        self, network: BaseNetwork | str, x: Any, *, timeout: float | None = None, **options: Unpack[NetworkStreaming]
    ) -> Any:
        """Run a fully convolutional network on maps of any size, in windows, with the outputs of one call on the whole.

        The server derives from the graph which windows give the same values as the whole map. If the connection is
        lost, or the server is busy, windows are tried again.

        Args:
            network: a loaded one, or its name.
            x: (N, C, *spatial) or (C, *spatial): anything with shape, dtype and slices along all axes
                (`groupconv.open_npy`, Zarr, HDF5); or an iterator of bands (C, rows, …) of one sample, with `shape`
                and `dtype`. Several inputs are a mapping of names to these.
            timeout: seconds for the whole stream; None has no limit, but each window has the client's.
            options: see below.

        Options:
            outputs: names of those wanted; none means all.
            out: array to fill, of the output's shape and dtype, or a mapping of names to them; None makes NumPy arrays.
            shape, dtype: of an iterator's bands together.
            progress: function to call with a `Progress` after each window; True shows a bar.
            window_bytes: that a window may take on a worker; 0 leaves it to the server.

        Returns:
            `out`, or a new array; several outputs by name.

        Raises:
            InvalidArgumentError: an argument is invalid, or a node of the network needs all of the map; it is named.
            ResourceExhaustedError: the smallest window takes more memory than the server gives a stream.
            FailedPreconditionError: the network was replaced under way.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.
        """
        check_names(options, NetworkStreaming.__annotations__)
        net = self.get_network(network) if isinstance(network, str) else network
        return self._stream_network(NetworkStream(net.info, x, **options), timeout)

    def plan_stream(self, network: BaseNetwork | str, x: Any, **options: Unpack[NetworkStreaming]) -> StreamPlan:
        """How `stream_network` with these arguments would cut the maps; `print(plan)` says it in words."""
        check_names(options, NetworkStreaming.__annotations__)
        net = self.get_network(network) if isinstance(network, str) else network
        return self._run_exchange(NetworkStream(net.info, x, **options).planned())

    def _network(self, info: NetworkInfo) -> Network:
        return Network(info, self._run_exchange, self.get_network, self.unload_network)
