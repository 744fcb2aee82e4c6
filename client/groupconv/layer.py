"""Resident layers of the SDK: `client.load_layer(...)` returns a `Layer`, which is called like a function."""

import functools
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from groupconv.convolution.dtypes import is_float
from groupconv.convolution.spec import ConvSpec
from groupconv.device import destination, noted, unnoted
from groupconv.errors import InvalidArgumentError
from groupconv.memory.shared import Shared
from groupconv.session import small
from groupconv.transport.exchange import Exchange, Request
from groupconv.wire.layers import LayerInfo
from groupconv.wire.requests import (
    CONVOLVE,
    Array,
    Result,
    geometries,
    layer_fields,
    read_answer,
    result_of,
    travelling,
    with_input,
)
from groupconv.wire.tensors import as_array

__all__ = ["AsyncLayer", "Layer", "LayerInfo", "layer_input", "run_layer"]


def run_layer(
    shared: Shared | None, info: LayerInfo, x: Any, out: Any, *, allow_reordering: bool, report: bool
) -> Exchange[Result]:
    """The exchange that runs a layer on `x`.

    Args:
        shared: the client's shared memory; None sends tensors in the messages.
        info: the layer.
        x: (N, C, *spatial) or (C, *spatial), on the host or on a GPU.
        out: array to fill with the output, on the host or on a GPU; None makes one.
        allow_reordering: whether sums over input channels may be split between workers.
        report: whether the server reports how it ran the request.

    Raises:
        InvalidArgumentError: `x` does not fit the layer, or `out` cannot be filled.
    """
    if shared is not None:
        x = shared.source(x)
    elif not isinstance(x, np.ndarray):
        x = unnoted(x)
    array, unbatched = layer_input(info, x)
    device_out = None if out is None else destination(out)
    exchange = None
    if shared is not None:
        exchange = shared.run_layer(array, info, out=device_out, allow_reordering=allow_reordering, report=report)
    if exchange is not None:
        answer = yield from exchange
    else:
        fields = layer_fields(info.name, report, allow_reordering)
        answer = read_answer((yield Request(CONVOLVE, with_input(array, fields))))
    return result_of(answer, unbatched=unbatched, out=device_out or out)


def layer_input(info: LayerInfo, x: Any) -> tuple[Array, bool]:
    """The array that a layer is run on, and whether a batch axis was added.

    A float input is converted to the dtype of a float layer.

    Args:
        info: the layer.
        x: (N, C, *spatial) or (C, *spatial).

    Raises:
        InvalidArgumentError: the input's shape or dtype does not fit the layer.
    """
    array = x if isinstance(x, np.ndarray) else as_array(x)
    if array.dtype != info.dtype:
        convertible = is_float(info.dtype) and (is_float(array.dtype) or array.dtype.kind == "f")
        array = travelling("input", array, info.dtype if convertible else None)
    unbatched = _lacks_batch_axis(info.specs, info.kernel_shapes, array.shape)
    return array.reshape((1, *array.shape)) if unbatched else array, unbatched


@functools.lru_cache(maxsize=1024)  # saves 24 µs of a small request's 600
def _lacks_batch_axis(
    specs: tuple[ConvSpec, ...], kernel_shapes: tuple[tuple[int, ...], ...], shape: tuple[int, ...]
) -> bool:
    """Whether an input of this shape needs a batch axis.

    Raises:
        InvalidArgumentError: the shape does not fit the layer.
    """
    spec, kernel = specs[0], kernel_shapes[0]
    unbatched = len(shape) == len(kernel) - 1
    if unbatched:
        shape = (1, *shape)
    channels = kernel[0] if spec.transposed else kernel[1] * spec.groups
    if len(shape) == len(kernel) and shape[1] != channels:  # the layer is given, so it is the input that is wrong
        raise InvalidArgumentError("input.shape[1]", f"{channels} channels, as the layer has", shape[1])
    geometries(specs, shape, kernel_shapes)
    return unbatched


class Layer:
    """A layer on the server: call it with an input. A context manager, which unloads the layer at the end.

    A call runs the version that is currently loaded under the name.

    Attributes:
        info: the description from when the layer was loaded.

    Example:
        with client.load_layer("alexnet/conv2", w, bias, ConvSpec(padding=2, groups=2)) as layer:
            y = layer(x)
    """

    def __init__(
        self,
        info: LayerInfo,
        shared: Shared | None,
        run: Callable[[Exchange[Result], float | None], Result],
        get: Callable[[str], "Layer"],
        unload: Callable[[str], None],
    ) -> None:
        self.info = info
        self._shared, self._run, self._get, self._unload = shared, run, get, unload

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.info.name

    def __call__(self, x: Any, *, out: Any = None, timeout: float | None = None) -> Array:
        """The output for `x` (N, C, *spatial) or (C, *spatial), in a new array or in `out`; either may be on a GPU."""
        exchange = run_layer(self._shared, self.info, x, out, allow_reordering=False, report=False)
        return self._run(exchange, timeout).output

    def run(self, x: Any, *, out: Any = None, timeout: float | None = None, allow_reordering: bool = False) -> Result:
        """Output and report; arguments as in `Client.run`."""
        exchange = run_layer(self._shared, self.info, x, out, allow_reordering=allow_reordering, report=True)
        return self._run(exchange, timeout)

    def statistics(self) -> LayerInfo:
        """The server's current description: version, bytes, requests, samples, seconds."""
        return self._get(self.name).info

    def unload(self) -> None:
        """Remove the layer from the server.

        Raises:
            NotFoundError: the server no longer has the layer.
        """
        self._unload(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.unload()


class AsyncLayer:
    """`Layer` with `await`; an async context manager."""

    def __init__(
        self,
        info: LayerInfo,
        shared: Shared | None,
        run: Callable[..., Awaitable[Result]],
        get: Callable[[str], Awaitable["AsyncLayer"]],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        self.info = info
        self._shared, self._run, self._get, self._unload = shared, run, get, unload

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.info.name

    async def __call__(self, x: Any, *, out: Any = None, timeout: float | None = None) -> Array:
        """As `Layer.__call__`."""
        return (await self._exchange(x, out, timeout, allow_reordering=False, report=False)).output

    async def run(
        self, x: Any, *, out: Any = None, timeout: float | None = None, allow_reordering: bool = False
    ) -> Result:
        """As `Layer.run`."""
        return await self._exchange(x, out, timeout, allow_reordering=allow_reordering, report=True)

    async def _exchange(
        self, x: Any, out: Any, timeout: float | None, *, allow_reordering: bool, report: bool
    ) -> Result:
        x, out = noted(x), noted(out)  # in this thread: an array on a GPU names this thread's stream
        exchange = run_layer(self._shared, self.info, x, out, allow_reordering=allow_reordering, report=report)
        return await self._run(exchange, timeout, small=small(out, x))

    async def statistics(self) -> LayerInfo:
        """As `Layer.statistics`."""
        return (await self._get(self.name)).info

    async def unload(self) -> None:
        """As `Layer.unload`."""
        await self._unload(self.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.unload()
