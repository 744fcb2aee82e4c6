"""Several connections to one server as one channel: calls take turns.

A server of several processes (`groupconv serve --processes`) answers each connection in one of them. A program that
calls from many threads reaches all processes only over several connections.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

OWN = (("grpc.use_local_subchannel_pool", 1),)
"""Option of a channel that shares its connection with no other one: gRPC gives equal channels one connection."""


class Spread:
    """The calls of a channel that sessions make, over several channels.

    Args:
        channels: to the same server, each with a connection of its own.
    """

    def __init__(self, channels: Sequence[Any]) -> None:
        self._channels, self._turn = channels, itertools.cycle(channels)

    def unary_unary(self, method: str) -> Callable[..., Any]:
        """A function that calls the method over the next channel."""
        turn = itertools.cycle([channel.unary_unary(method) for channel in self._channels])

        def call(*request: Any, **options: Any) -> Any:
            return next(turn)(*request, **options)

        return call

    def stream_unary(self, method: str) -> Any:
        """The method on the next channel."""
        return next(self._turn).stream_unary(method)

    def stream_stream(self, method: str) -> Any:
        """The method on the next channel."""
        return next(self._turn).stream_stream(method)


class BlockingSpread(Spread):
    """The part of `grpc.Channel` that sessions use."""

    def close(self) -> None:
        """Close all channels."""
        for channel in self._channels:
            channel.close()


class AioSpread(Spread):
    """The part of `grpc.aio.Channel` that sessions use."""

    async def close(self) -> None:
        """Close all channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels))
