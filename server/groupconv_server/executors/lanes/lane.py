"""The coordinator's side of a lane: its connections to one worker, and a shard over one of them.

A connection carries one shard at a time, and there are as many connections as shards were ever in flight at once. So a
shard is dropped by closing its connection, and no shard waits for the result of another.
"""

import contextlib
import json
import logging
import math
import os
import socket
import threading
from typing import Any

from groupconv.errors import BY_STATUS, GroupconvError, InternalError
from groupconv_server.executors.task import Task
from groupconv_worker.contract import Array
from groupconv_worker.lanes import frames
from groupconv_worker.lanes.endpoint import NUMBER, RUN, SIZE, Address, watch
from groupconv_worker.lanes.frames import BrokenLaneError, FrameKind
from groupconv_worker.lanes.handshake import TIMEOUT, introduce
from groupconv_worker.lanes.memory import MappedMemory, fitting, shared
from groupconv_worker.lanes.shards import NUMBERS, ShardHeader, weights_of
from groupconv_worker.shard import Ran

log = logging.getLogger(__name__)

LARGEST = 2**28
"""Bytes of a shard's arrays beyond which it always goes through Ray."""
KEPT = 2**28
"""Bytes of shared memory that idle connections to one worker keep for the next shards, at most."""


class Lane:
    """The connections to one worker. Safe to use from several threads.

    Args:
        address: of the worker's endpoint.
        key: that it knows.

    Attributes:
        limit: bytes of arrays up to which a shard goes by the lane.
        kind: "unix" or "tcp".
        busy: shards in flight.

    Raises:
        OSError: nobody listens there, or the other side does not know the key.
    """

    def __init__(self, address: Address, key: bytes) -> None:
        self._address, self._key = address, key
        self._lock = threading.Lock()
        self._closed = False
        self.limit = LARGEST
        self.kind = "unix" if isinstance(address, str) else "tcp"
        self.busy = 0
        self._idle = [LaneConnection(address, key)]

    @property
    def open(self) -> bool:
        """Whether it may be used; a closed lane stays closed."""
        return not self._closed

    def take(self, timeout: float = TIMEOUT) -> "LaneConnection":
        """A connection for one shard.

        Args:
            timeout: seconds that the worker has to accept a new one.

        Raises:
            TimeoutError: it did not accept within a timeout shorter than TIMEOUT; the lane stays open.
            OSError: the worker accepts no more; the lane is closed.
        """
        with self._lock:
            if self._closed:
                raise BrokenLaneError("the lane is closed")
            if self._idle:
                self.busy += 1
                return self._idle.pop()  # the one used last, so that few are in use
        return self._connect(timeout)

    def _connect(self, timeout: float = TIMEOUT) -> "LaneConnection":
        try:
            connection = LaneConnection(self._address, self._key, min(timeout, TIMEOUT))
        except BaseException as error:
            if not (isinstance(error, TimeoutError) and timeout < TIMEOUT):
                self.close()
            raise
        with self._lock:
            self.busy += 1
        return connection

    def give(self, connection: "LaneConnection") -> None:
        """Return a connection whose result was received."""
        with self._lock:
            self.busy -= 1
            surplus = []
            if self._closed:
                surplus.append(connection)
            else:
                self._idle.append(connection)
                while len(self._idle) > 1 and sum(connection.held for connection in self._idle) > KEPT:
                    surplus.append(self._idle.pop(0))
        for old in surplus:
            old.close()

    def drop(self, connection: "LaneConnection") -> None:
        """Close a connection whose result is not waited for."""
        with self._lock:
            self.busy -= 1
        connection.close()

    def broke(self, connection: "LaneConnection") -> None:
        """Close a connection that broke, and the idle ones, which may have broken, too."""
        with self._lock:
            idle, self._idle = self._idle, []
        for other in idle:
            other.close()
        self.drop(connection)

    def answers(self) -> bool:
        """Whether the worker accepts another connection; if not, the lane is closed."""
        try:
            self.give(self._connect())
        except OSError:
            return False
        return True

    def check(self) -> bool:
        """Whether the worker is there, as far as idle connections show; if not, the lane is closed."""
        with self._lock:
            gone = [connection for connection in self._idle if connection.gone()]
            self._idle = [connection for connection in self._idle if connection not in gone]
        for connection in gone:
            connection.close()
        return self.answers() if gone else self.open

    def close(self) -> None:
        """Close idle connections and open no more; shards in flight go on."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class LaneConnection:
    """One connection: one shard at a time.

    Raises:
        OSError: nobody listens there, or the other side does not know the key.
    """

    def __init__(self, address: Address, key: bytes, timeout: float = TIMEOUT) -> None:
        self._local = isinstance(address, str)
        if isinstance(address, str):
            self._sock = socket.socket(socket.AF_UNIX)
        else:
            self._sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            self._sock.settimeout(max(timeout, 1e-3))
            self._sock.connect(f"\0{address}" if isinstance(address, str) else address)
            if not self._local:
                watch(self._sock)
            introduce(self._sock, key)
            self._sock.settimeout(None)
        except BaseException:
            self._sock.close()
            raise
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
            for there, here in zip(shard.weights(memory, full=full), weights, strict=True):
                there[...] = here
        head = RUN.pack(self._number(shard), math.inf if expires is None else expires, full)
        frames.send(self._sock, FrameKind.RUN, head, () if self._local else (task.x, *weights))
        self._shard = shard

    def receive(self, out: Array) -> tuple[Ran, ...] | None:
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
        kind, body = frames.receive(self._sock)
        if kind is FrameKind.MISSING:
            return None
        if kind is FrameKind.FAILED:
            raise _failure(json.loads(body))
        if kind is not FrameKind.DONE:
            raise BrokenLaneError(f"the worker sent an unexpected {kind.name}")
        if self._memory is None:
            frames.receive_arrays(self._sock, [out])
        else:
            out[...] = self._shard.arrays(self._memory)[1]
        return tuple(Ran(*report) for report in json.loads(body))

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


class WorkerError(InternalError):
    """An unexpected exception of the worker; its traceback is for the log."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        super().__init__(name)


def _failure(reported: dict[str, Any]) -> GroupconvError:
    if "status" in reported:
        return BY_STATUS[reported["status"]](reported["message"])
    return WorkerError(reported["error"], reported["traceback"])
