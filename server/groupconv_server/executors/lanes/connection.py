"""One connection of a lane, which carries one shard or one call of a network at a time."""

import contextlib
import json
import math
import os
import socket
from collections.abc import Sequence
from dataclasses import replace

from groupconv_server.executors.lanes.failures import failure
from groupconv_server.executors.task import Task
from groupconv_worker.contract import Array
from groupconv_worker.lanes import frames
from groupconv_worker.lanes.endpoint import NUMBER, RUN, SIZE
from groupconv_worker.lanes.frames import BrokenLaneError, FrameKind
from groupconv_worker.lanes.handshake import TIMEOUT
from groupconv_worker.lanes.memory import MappedMemory, fitting, shared
from groupconv_worker.lanes.shards import NUMBERS, ShardHeader, weights_of
from groupconv_worker.lanes.sockets import Address, connect
from groupconv_worker.networks.messages import NetworkHeader
from groupconv_worker.shard import StageRun


class LaneConnection:
    """One connection: one shard, or one call of a network, at a time.

    Raises:
        OSError: nobody listens there, or the other side does not know the key.
    """

    def __init__(self, address: Address, key: bytes, timeout: float = TIMEOUT) -> None:
        self._local = isinstance(address, str)
        self._sock = connect(address, key, timeout)
        self._memory: MappedMemory | None = None
        self._numbers: dict[ShardHeader, int] = {}
        self._shard: ShardHeader | None = None

    @property
    def held(self) -> int:
        """Bytes of its shared memory."""
        return 0 if self._memory is None else self._memory.size

    def fileno(self) -> int:
        """The descriptor to poll for the result."""
        return self._sock.fileno()

    def gone(self) -> bool:
        """Whether the worker has closed the connection."""
        return frames.gone(self._sock)

    def send(self, task: Task, expires: float | None, *, full: bool) -> None:
        """Send a shard.

        Args:
            task: the shard.
            expires: on the clock of time.time(); the worker does not start it later.
            full: whether the weights of resident layers are sent, too.

        Raises:
            MemoryError: there is no shared memory; nothing was sent.
            OSError: the connection is broken.
        """
        shard = ShardHeader.of(task.x, task.stages)
        size = shard.full if full else shard.size
        weights = weights_of(task.stages, full=full)
        if self._local:
            memory = self._reserve(size)
            x, _ = shard.arrays(memory)
            x[...] = task.x
            for shared, here in zip(shard.weights(memory, full=full), weights, strict=True):
                shared[...] = here
        head = RUN.pack(self._number(shard), math.inf if expires is None else expires, full)
        frames.send(self._sock, FrameKind.RUN, head, () if self._local else (task.x, *weights))
        self._shard = shard

    def receive(self, out: Array) -> tuple[StageRun, ...] | None:
        """Wait for the result of the shard that was sent.

        Args:
            out: the result is copied into it.

        Returns:
            A report of each stage; None if the worker needs the weights.

        Raises:
            OSError: the connection is broken.
            GroupconvError: the worker reported it.
        """
        assert self._shard is not None
        kind, body = self._answer()
        if kind is FrameKind.MISSING:
            return None
        if self._memory is None:
            frames.receive_arrays(self._sock, [out])
        else:
            out[...] = self._shard.arrays(self._memory)[1]
        return tuple(StageRun(*report) for report in json.loads(body))

    def send_network(self, header: NetworkHeader, model: Array, inputs: Sequence[Array]) -> None:
        """Send a call of a network, and the model unless it is empty.

        Raises:
            OSError: the connection is broken.
        """
        body = replace(header, model=model.nbytes).to_json()
        frames.send(self._sock, FrameKind.NETWORK, body, [model, *inputs])

    def answer(self) -> bytes:
        """Wait for the answer to a network; empty if the worker lacks the model, or has prepared it.

        Raises:
            OSError: the connection is broken.
            GroupconvError: the worker reported it.
        """
        return self._answer()[1]

    def receive_arrays(self, arrays: Sequence[Array]) -> None:
        """Receive the arrays that follow an answer."""
        frames.receive_arrays(self._sock, arrays)

    def echo(self, x: Array, out: Array) -> None:
        """Send bytes to the worker and receive as many into `out`, to measure the transfer alone."""
        size = x.nbytes
        if self._local:
            memory = self._reserve(2 * size)
            memory.array(0, x.dtype, x.shape)[...] = x
        frames.send(self._sock, FrameKind.ECHO, SIZE.pack(size), () if self._local else (x,))
        frames.receive(self._sock)
        if self._local:
            out[...] = memory.array(size, x.dtype, x.shape)
        else:
            frames.receive_arrays(self._sock, [out])

    def close(self) -> None:
        """Close it; the worker stops its shard."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _answer(self) -> tuple[FrameKind, bytes]:
        kind, body = frames.receive(self._sock)
        if kind is FrameKind.FAILED:
            raise failure(body)
        if kind not in (FrameKind.DONE, FrameKind.MISSING):
            raise BrokenLaneError(f"the worker sent an unexpected {kind.name}")
        return kind, body

    def _number(self, shard: ShardHeader) -> int:
        """The number of a shard on this connection; a new shard is defined first, in place of the oldest if need be."""
        number = self._numbers.get(shard)
        if number is None:
            number = len(self._numbers)
            if number == NUMBERS:
                number = self._numbers.pop(next(iter(self._numbers)))
            frames.send(self._sock, FrameKind.DEFINE, NUMBER.pack(number) + shard.to_json())
            self._numbers[shard] = number
        return number

    def _reserve(self, size: int) -> MappedMemory:
        """Shared memory of at least so many bytes; the previous one if it is large enough."""
        if self._memory is None or self._memory.size < size:
            enough = fitting(size, self.held)
            try:
                handle = shared(enough)
                memory = MappedMemory(enough, os.dup(handle))
            except OSError as error:
                raise MemoryError(str(error)) from None
            try:
                frames.send_with(self._sock, FrameKind.MEMORY, SIZE.pack(enough), handle)
            finally:
                os.close(handle)
            self._memory = memory
        return self._memory
