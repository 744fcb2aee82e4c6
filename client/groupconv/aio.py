"""The awaiting client: `groupconv.aio.connect(...)`, the same API with `await`.

Large messages are made and read in threads, so that they do not stall the event loop.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import grpc
import numpy as np

from groupconv.convolutions import Convolutions
from groupconv.errors import GroupconvError, UnavailableError
from groupconv.layer import AsyncLayer, LayerInfo, info_from_wire, layer_input, layer_request, load_messages
from groupconv.options import Call
from groupconv.plan import Plan
from groupconv.progress import Shown
from groupconv.requests import (
    CONVOLVE,
    Answer,
    Array,
    Result,
    Step,
    convolve_request,
    plan_request,
    prepare,
    read_answer,
    result_of,
)
from groupconv.rpc import Connection, Metadata, Pem, from_aio_error, from_rpc_error
from groupconv.shared import Ask, Done, Mode, Shared, Talk, advance, empty, shared_memory_of
from groupconv.spec import ConvSpec
from groupconv.stream import STREAM, Attempts, Transfer, pays, transfer
from groupconv.tensors import MAX_MESSAGE_BYTES
from groupconv.v1 import cluster_pb2, convolution_pb2, layer_pb2
from groupconv.wire import plan_from_wire

SMALL = 2**20
"""Bytes that are copied in less time than a thread takes to be told."""
_CONVOLUTION, _CLUSTER = "/groupconv.v1.ConvolutionService/", "/groupconv.v1.ClusterService/"
_LAYERS = "/groupconv.v1.LayerService/"


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
    """An awaiting client of the server at `target`; arguments and errors as in `groupconv.connect`.

    Call it where an event loop runs.

    Example:
        >>> async def main(target):
        ...     async with connect(target) as client:
        ...         return await client.conv1d([[[1.0, 2.0]]], [[[3.0]]])
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
    return Client(connection.open_aio(), target=target, timeout=timeout, metadata=connection.metadata, shared=shared)


class Client(Convolutions[Awaitable[Array]]):
    """Calls a groupconv server without blocking the event loop; close it, or use it as an async context manager."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
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

    async def run(
        self,
        x: Any,
        steps: Sequence[Step],
        *,
        out: Array | None = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
    ) -> Result:
        """Run steps one after another on `x` in one request (see `groupconv.Client.run`)."""
        call = Call(out=out, timeout=timeout, allow_reordering=allow_reordering)
        return await self._unary(*await asyncio.to_thread(prepare, x, steps), call)

    async def stream_conv2d(
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
        """`conv2d` of an image of any size (see `groupconv.Client.stream_conv2d`)."""
        steps = [Step(weight, bias, ConvSpec(**options))]
        return await self.stream_convolve(
            source,
            steps,
            timeout=timeout,
            shape=shape,
            dtype=dtype,
            out=out,
            progress=progress,
            wire_dtype=wire_dtype,
            compression=compression,
        )

    async def stream_convolve(
        self, source: Any, steps: Sequence[Step], *, timeout: float | None = None, **options: Any
    ) -> Any:
        """Run steps on a feature map of any size (see `groupconv.Client.stream_convolve`, also for the options).

        The source, the sink and `progress` are used in threads.
        """
        return await self._stream(await asyncio.to_thread(lambda: transfer(source, steps, **options)), timeout)

    async def plan(
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
        return await self.plan_steps(
            input_shape,
            [weight_shape],
            [spec or ConvSpec()],
            dtype=dtype,
            timeout=timeout,
            allow_reordering=allow_reordering,
        )

    async def plan_steps(
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
        answer = await self._call(_CONVOLUTION + "PlanConvolution", request.SerializeToString(), timeout)
        return plan_from_wire(convolution_pb2.PlanConvolutionResponse.FromString(answer).plan)

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
        """Leave a convolution's weights on the server (see `groupconv.Client.load_layer`)."""
        steps = [Step(weight, bias, spec or ConvSpec())]
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
        """`load_layer` for several steps, each on the output of the one before."""
        for pause in (0.0, 0.1, 0.2, 0.4, 0.8):
            await asyncio.sleep(pause)
            try:
                answer = await self._load(load_messages(name, steps, dtype, inputs), timeout)
            except UnavailableError as error:
                failed = error
            else:
                return self._layer(info_from_wire(layer_pb2.LoadLayerResponse.FromString(answer).layer))
        raise failed

    async def _load(self, parts: Iterator[layer_pb2.LoadLayerRequest], timeout: float | None) -> bytes:
        async def messages() -> AsyncIterator[bytes]:
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                yield part.SerializeToString()

        load: Any = self._channel.stream_unary(_LAYERS + "LoadLayer")
        call = load(messages(), timeout=self.timeout if timeout is None else timeout, metadata=self._metadata)
        try:
            answer: bytes = await call
        except grpc.RpcError as error:
            raise await from_aio_error(call, error) from None
        return answer

    async def get_layer(self, name: str) -> AsyncLayer:
        """A layer that is loaded already; NotFoundError if there is none of that name."""
        request = layer_pb2.GetLayerRequest(name=name).SerializeToString()
        answer = await self._call(_LAYERS + "GetLayer", request, None)
        return self._layer(info_from_wire(layer_pb2.GetLayerResponse.FromString(answer).layer))

    async def list_layers(self) -> list[LayerInfo]:
        """What the server says of every layer, by name."""
        answer = await self._call(_LAYERS + "ListLayers", b"", None)
        return [info_from_wire(layer) for layer in layer_pb2.ListLayersResponse.FromString(answer).layers]

    async def unload_layer(self, name: str) -> None:
        """Let the server forget a layer; NotFoundError if there is none of that name."""
        await self._call(_LAYERS + "UnloadLayer", layer_pb2.UnloadLayerRequest(name=name).SerializeToString(), None)

    async def status(self, *, timeout: float | None = None) -> cluster_pb2.GetClusterResponse:
        """Version, executor and workers of the server."""
        answer = await self._call(_CLUSTER + "GetCluster", b"", timeout)
        return cluster_pb2.GetClusterResponse.FromString(answer)

    async def empty(self, shape: int | Sequence[int], dtype: Any = "float32") -> Array:
        """An array to be filled and given to calls, which need not copy it (see `groupconv.Client.empty`)."""
        made = empty(shape, dtype)
        return made if self._shared is None else await self._talk(self._shared.empty(made), None, small=True)

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled. Arrays in shared memory stay as they are."""
        if self._shared is not None:
            for ask in self._shared.close():
                with contextlib.suppress(GroupconvError):  # the server lets it go by itself in time
                    await self._call(ask.method, ask.message, 1.0)
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def _answer(self, x: Any, steps: Sequence[Step], call: Call) -> Array:
        array, ready, unbatched = await asyncio.to_thread(prepare, x, steps)
        shared = self._shared
        if not pays(array, ready) or (
            shared and await self._talk(shared.fits(array, ready), call.get("timeout"), small=True)
        ):
            return (await self._unary(array, ready, unbatched, call, report=False)).output
        reordering = call.get("allow_reordering", False)
        made = transfer(array[0] if unbatched else array, ready, out=call.get("out"), allow_reordering=reordering)
        timeout = call.get("timeout")
        answer: Array = await self._stream(made, self.timeout if timeout is None else timeout)
        return answer

    async def _unary(
        self, array: Array, ready: Sequence[Step], unbatched: bool, call: Call, *, report: bool = True
    ) -> Result:
        reordering, out = call.get("allow_reordering", False), call.get("out")
        if self._shared is not None:
            talk = self._shared.run_steps(array, ready, allow_reordering=reordering, report=report)
            return await self._shared_result(talk, array, call.get("timeout"), unbatched=unbatched, out=out)
        request = await asyncio.to_thread(
            lambda: convolve_request(array, ready, allow_reordering=reordering, report=report)
        )
        return await self._convolve(request, call.get("timeout"), unbatched=unbatched, out=out)

    async def _convolve(self, request: bytes, timeout: float | None, *, unbatched: bool, out: Array | None) -> Result:
        raw = await self._call(CONVOLVE, request, timeout)
        if out is None or out.nbytes < SMALL:  # nothing is copied, or little
            return result_of(read_answer(raw), unbatched=unbatched, out=out)
        return await asyncio.to_thread(lambda: result_of(read_answer(raw), unbatched=unbatched, out=out))

    async def _shared_result(
        self, talk: Talk[Answer], x: Array, timeout: float | None, *, unbatched: bool, out: Array | None
    ) -> Result:
        answer = await self._talk(talk, timeout, small=x.nbytes < SMALL)
        if out is None or out.nbytes < SMALL:
            return result_of(answer, unbatched=unbatched, out=out)
        return await asyncio.to_thread(lambda: result_of(answer, unbatched=unbatched, out=out))

    async def _talk(self, talk: Talk[Any], timeout: float | None, *, small: bool) -> Any:
        """Make the calls that a generator asks for, and give what it returns; it copies in a thread, unless little."""

        async def told(answer: bytes | None = None) -> Ask | Done:
            return advance(talk, answer) if small else await asyncio.to_thread(advance, talk, answer)

        next_ = await told()
        while isinstance(next_, Ask):
            try:
                answer = await self._call(next_.method, next_.message, timeout)
            except BaseException as error:  # noqa: BLE001 - the generator's to judge
                next_ = advance(talk, error=error)
            else:
                next_ = await told(answer)
        return next_.value

    async def _stream(self, made: Transfer, timeout: float | None) -> Any:
        attempts = Attempts(made, timeout)
        with contextlib.closing(made):
            while True:
                try:
                    await self._attempt(made, attempts.left())
                except UnavailableError as error:
                    await asyncio.sleep(attempts.pause_after(error))
                else:
                    return made.filled()

    async def _attempt(self, made: Transfer, timeout: float | None) -> None:
        """One connection: one task sends while another receives."""
        begin: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        failed: list[Exception] = []

        async def messages() -> AsyncIterator[bytes]:
            yield await asyncio.to_thread(made.header)
            try:
                chunks = made.chunks(await begin)
                while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                    yield chunk
            except Exception as error:  # noqa: BLE001 - the source's own, raised below
                failed.append(error)
                call.cancel()

        opened: Any = self._channel.stream_stream(STREAM)
        call = opened(messages(), timeout=timeout, metadata=self._metadata)
        try:
            answers = aiter(call)
            begin.set_result(await asyncio.to_thread(made.accepted, await anext(answers)))
            async for message in answers:
                await asyncio.to_thread(made.take, message)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if failed:
                raise failed[0] from None
            if isinstance(error, grpc.RpcError):
                raise await from_aio_error(call, error) from None
            raise
        finally:
            begin.cancel()
            call.cancel()

    def _layer(self, info: LayerInfo) -> AsyncLayer:
        return AsyncLayer(info, self._run_layer, self.get_layer, self.unload_layer)

    async def _run_layer(
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
                return await self._shared_result(talk, array, timeout, unbatched=unbatched, out=out)

        def message() -> tuple[bytes, bool]:
            return layer_request(info, x, report=report, allow_reordering=allow_reordering)

        small = isinstance(x, np.ndarray) and x.nbytes < SMALL
        request, unbatched = message() if small else await asyncio.to_thread(message)
        return await self._convolve(request, timeout, unbatched=unbatched, out=out)

    async def _call(self, method: str, request: bytes, timeout: float | None) -> bytes:
        try:
            unary: Any = self._channel.unary_unary(method)  # no serializers: bytes in, bytes out
            answer: bytes = await unary(
                request, timeout=self.timeout if timeout is None else timeout, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return answer
