"""Resident layers of the awaiting client."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from groupconv.async_session import small
from groupconv.convolution.steps import Array, Result
from groupconv.gpu.arrays import as_device_array
from groupconv.layer import BaseLayer
from groupconv.layouts import Layout
from groupconv.memory.shared import Shared
from groupconv.wire.layers import LayerInfo


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
