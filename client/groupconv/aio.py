"""The awaiting client, `groupconv.aio.connect(...)`: the same API with `await`."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Unpack

from groupconv import calls, network_calls
from groupconv.arguments import checked_steps
from groupconv.async_layer import AsyncLayer
from groupconv.async_session import small
from groupconv.convolution.plan import Plan
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Array, Result, Step
from groupconv.convolutions import Convolutions
from groupconv.gpu.arrays import as_device_array
from groupconv.layer import LayerInfo
from groupconv.layouts import Layout
from groupconv.memory.shared import Mode, shared_memory_of
from groupconv.network import AsyncNetwork, BaseNetwork
from groupconv.networks.info import NetworkInfo
from groupconv.networks.windows import StreamPlan
from groupconv.options import CallOptions, StreamConv, Streaming, check_names, spec_or_default, split_streaming
from groupconv.planning import Planning
from groupconv.streaming.async_session import AsyncStreamSession
from groupconv.streaming.network import NetworkStream, NetworkStreaming
from groupconv.streaming.progress import ProgressCallback, reported
from groupconv.streaming.stream import Transfer, transfer
from groupconv.transport.channel import Connection, Opening
from groupconv.transport.exchange import Exchange
from groupconv.v1 import cluster_pb2


def connect(
    target: str, *, timeout: float | None = 300.0, shared_memory: Mode = False, **options: Unpack[Opening]
) -> "Client":
    """An awaiting client of the server at `target`; arguments and errors as in `groupconv.connect`.

    Call it while an event loop is running.

    Example:
        >>> async def main(target):
        ...     async with connect(target) as client:
        ...         return await client.conv1d([[[1.0, 2.0]]], [[[3.0]]])
    """
    check_names(options, Opening.__annotations__)
    connection = Connection(target, **options)
    shared = shared_memory_of(shared_memory, balance=connection.balance)
    return Client(connection.open_aio(), connection, timeout=timeout, shared=shared)


class Client(AsyncStreamSession, Planning[Awaitable[Plan]], Convolutions[Awaitable[Array]]):
    """A client that does not block the event loop. Close it, or use it as an async context manager."""

    async def run(
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
        """Run steps in one request, and report how the server computed them; see `groupconv.Client.run`."""
        x, out, steps = as_device_array(x), as_device_array(out), checked_steps(steps)
        call = CallOptions(out=out, timeout=timeout, allow_reordering=allow_reordering, cut=cut, layout=layout)
        exchange = calls.run(self._shared, x, steps, call)
        return await self._run_exchange(exchange, timeout, small=small(out, x, *_weights(steps)))

    async def stream_conv2d(
        self, source: Any, weight: Any, bias: Any = None, *, timeout: float | None = None, **options: Unpack[StreamConv]
    ) -> Any:
        """A 2-D convolution of an image of any size; see `groupconv.Client.stream_conv2d`."""
        spec, streaming = split_streaming(options)
        return await self.stream_convolve(source, [Step(weight, bias, spec)], timeout=timeout, **streaming)

    async def stream_convolve(
        self, source: Any, steps: Sequence[Step], *, timeout: float | None = None, **options: Unpack[Streaming]
    ) -> Any:
        """Run steps on a feature map of any size; see `groupconv.Client.stream_convolve`, also for the options.

        The source, `out` and `progress` are used in other threads.
        """
        check_names(options, Streaming.__annotations__)
        return await self._stream(await asyncio.to_thread(lambda: transfer(source, steps, **options)), timeout)

    async def stream_network(
        self, network: BaseNetwork | str, x: Any, *, timeout: float | None = None, **options: Unpack[NetworkStreaming]
    ) -> Any:
        """Run a network on maps of any size, in windows; see `groupconv.Client.stream_network`.

        The source, `out` and `progress` are used in other threads.
        """
        check_names(options, NetworkStreaming.__annotations__)
        net = await self.get_network(network) if isinstance(network, str) else network
        return await self._stream_network(NetworkStream(net.info, x, **options), timeout)

    async def plan_stream(self, network: BaseNetwork | str, x: Any, **options: Unpack[NetworkStreaming]) -> StreamPlan:
        """How `stream_network` would cut the maps; see `groupconv.Client.plan_stream`."""
        check_names(options, NetworkStreaming.__annotations__)
        net = await self.get_network(network) if isinstance(network, str) else network
        return await self._run_exchange(NetworkStream(net.info, x, **options).planned())

    async def load_layer(
        self,
        name: str,
        weight: Any,
        bias: Any = None,
        spec: ConvSpec | None = None,
        *,
        dtype: Any = None,
        inputs: Sequence[Sequence[int]] = (),
        timeout: float | None = None,
    ) -> AsyncLayer:
        """Load a convolution's weights on the server; see `groupconv.Client.load_layer`."""
        steps = [Step(weight, bias, spec_or_default(spec))]
        return await self.load_layer_steps(name, steps, dtype=dtype, inputs=inputs, timeout=timeout)

    async def load_layer_steps(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        dtype: Any = None,
        inputs: Sequence[Sequence[int]] = (),
        timeout: float | None = None,
    ) -> AsyncLayer:
        """Load a layer of several steps; see `groupconv.Client.load_layer_steps`."""
        answer = await self._upload(calls.LOAD, calls.load(name, steps, dtype, inputs), timeout)
        return self._layer(calls.loaded(answer))

    async def get_layer(self, name: str) -> AsyncLayer:
        """A layer that is already on the server; see `groupconv.Client.get_layer`."""
        return self._layer(await self._run_exchange(calls.get_layer(name)))

    async def list_layers(self) -> list[LayerInfo]:
        """The server's descriptions of all layers, sorted by name."""
        return await self._run_exchange(calls.list_layers())

    async def unload_layer(self, name: str) -> None:
        """Remove a layer from the server; see `groupconv.Client.unload_layer`."""
        await self._run_exchange(calls.unload_layer(name))

    async def load_network(
        self,
        name: str,
        model: Any,
        *,
        inputs: Sequence[Mapping[str, Sequence[int]]] = (),
        progress: ProgressCallback | bool | None = None,
        timeout: float | None = None,
    ) -> AsyncNetwork:
        """Load a whole network on the server; see `groupconv.Client.load_network`."""
        data = await asyncio.to_thread(network_calls.model_bytes, model)
        with reported(network_calls.load(name, data, inputs), len(data), progress) as messages:
            return self._network(network_calls.loaded(await self._upload(network_calls.LOAD, messages, timeout)))

    async def get_network(self, name: str) -> AsyncNetwork:
        """A network that is already on the server; NotFoundError if there is none of this name."""
        return self._network(await self._run_exchange(network_calls.get_network(name)))

    async def list_networks(self) -> list[NetworkInfo]:
        """The server's descriptions of all networks, sorted by name."""
        return await self._run_exchange(network_calls.list_networks())

    async def unload_network(self, name: str) -> None:
        """Remove a network from the server; NotFoundError if there is none of this name."""
        await self._run_exchange(network_calls.unload_network(name))

    async def status(self, *, timeout: float | None = None) -> cluster_pb2.GetClusterResponse:
        """The server's version, executor and workers."""
        return await self._run_exchange(calls.status(), timeout)

    async def empty(self, shape: int | Sequence[int], dtype: Any = "float32") -> Array:
        """A new array for inputs, in shared memory if there is space; see `groupconv.Client.empty`."""
        return await self._run_exchange(calls.empty(self._shared, shape, dtype))

    async def _answer(self, x: Any, steps: Sequence[Step], call: CallOptions) -> Array:
        timeout, x, call["out"] = call.get("timeout"), as_device_array(x), as_device_array(call.get("out"))
        exchange = calls.output(self._shared, x, steps, call)
        output = await self._run_exchange(exchange, timeout, small=small(call.get("out"), x, *_weights(steps)))
        return await self._stream(output, self._seconds(timeout)) if isinstance(output, Transfer) else output

    def _plan(self, exchange: Exchange[Plan], timeout: float | None) -> Awaitable[Plan]:
        return self._run_exchange(exchange, timeout)

    def _network(self, info: NetworkInfo) -> AsyncNetwork:
        return AsyncNetwork(info, self._run_exchange, self.get_network, self.unload_network)

    def _layer(self, info: LayerInfo) -> AsyncLayer:
        return AsyncLayer(info, self._shared, self._run_exchange, self.get_layer, self.unload_layer)


def _weights(steps: Sequence[Step]) -> list[Any]:
    return [array for step in steps for array in (step.kernel, step.bias)]
