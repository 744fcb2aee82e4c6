"""Resident layers of the SDK: `client.load_layer(...)` returns a `Layer`, which is called like a function."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from groupconv.async_session import small
from groupconv.base_layer import BaseLayer
from groupconv.convolution.steps import Array, Result
from groupconv.gpu.arrays import as_device_array
from groupconv.layouts import Layout
from groupconv.memory.shared import Shared
from groupconv.transport.exchange import Exchange
from groupconv.wire.layers import LayerInfo

__all__ = ["AsyncLayer", "Layer", "LayerInfo"]


class Layer(BaseLayer):
    """A layer on the server: call it with an input. As a context manager it unloads the layer at the end.

    A call runs the version that is currently loaded under the name.

    Attributes:
        info: the server's description from when the layer was loaded.

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
        super().__init__(info, shared)
        self._run, self._get, self._unload = run, get, unload

    def __call__(
        self,
        x: Any,
        *,
        out: Any = None,
        timeout: float | None = None,
        cut: str | None = None,
        layout: Layout | None = None,
    ) -> Array:
        """The layer's output for `x`.

        Args:
            x: (N, C, *spatial) or (C, *spatial), on the host or on a GPU. Floats are converted to the layer's dtype.
            out: array of the output's shape and dtype to fill, on the host or on a GPU; None makes a NumPy array.
            timeout: seconds; None takes the client's.
            cut: what to cut along, see `Client.run`.
            layout: see `Client.run`.

        Returns:
            (N, M, *spatial), or (M, *spatial) for an input without a batch axis.

        Raises:
            InvalidArgumentError: `x` or `out` does not fit.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.
        """
        return self._run(
            self._exchange(x, out, allow_reordering=False, report=False, cut=cut, layout=layout), timeout
        ).output

    def run(
        self,
        x: Any,
        *,
        out: Any = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
        cut: str | None = None,
        layout: Layout | None = None,
    ) -> Result:
        """The output for `x`, and a report of how the server computed it.

        Args:
            x: as in `__call__`.
            out: as in `__call__`.
            timeout: as in `__call__`.
            allow_reordering: whether sums over input channels may be split between workers; this changes how floats
                round.
            cut: what to cut along, see `Client.run`.
            layout: see `Client.run`.

        Raises:
            InvalidArgumentError: `x` or `out` does not fit, or the layer cannot be cut so.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.
        """
        return self._run(
            self._exchange(x, out, allow_reordering=allow_reordering, report=True, cut=cut, layout=layout), timeout
        )

    def statistics(self) -> LayerInfo:
        """The server's current description: version, bytes, requests, samples, seconds.

        Raises:
            NotFoundError: the server no longer has the layer.
        """
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


class AsyncLayer(BaseLayer):
    """`Layer` with `await`; an async context manager."""

    def __init__(
        self,
        info: LayerInfo,
        shared: Shared | None,
        run: Callable[..., Awaitable[Result]],
        get: Callable[[str], Awaitable["AsyncLayer"]],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        super().__init__(info, shared)
        self._run, self._get, self._unload = run, get, unload

    async def __call__(
        self,
        x: Any,
        *,
        out: Any = None,
        timeout: float | None = None,
        cut: str | None = None,
        layout: Layout | None = None,
    ) -> Array:
        """The layer's output for `x`; see `Layer.__call__`."""
        return (await self._call(x, out, timeout, allow_reordering=False, report=False, cut=cut, layout=layout)).output

    async def run(
        self,
        x: Any,
        *,
        out: Any = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
        cut: str | None = None,
        layout: Layout | None = None,
    ) -> Result:
        """The output for `x`, and a report of how the server computed it; see `Layer.run`."""
        return await self._call(x, out, timeout, allow_reordering=allow_reordering, report=True, cut=cut, layout=layout)

    async def _call(
        self,
        x: Any,
        out: Any,
        timeout: float | None,
        *,
        allow_reordering: bool,
        report: bool,
        cut: str | None,
        layout: Layout | None,
    ) -> Result:
        x, out = as_device_array(x), as_device_array(out)  # in this thread, whose stream an array on a GPU names
        exchange = self._exchange(x, out, allow_reordering=allow_reordering, report=report, cut=cut, layout=layout)
        return await self._run(exchange, timeout, small=small(out, x))

    async def statistics(self) -> LayerInfo:
        """The server's current description; see `Layer.statistics`."""
        return (await self._get(self.name)).info

    async def unload(self) -> None:
        """Remove the layer from the server; see `Layer.unload`."""
        await self._unload(self.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.unload()
