"""The coordinator's side of a lane: its connections to one worker, and a shard over one of them.

Each connection carries one shard at a time, and there are as many as shards were ever on their way at once: so a shard
is dropped by closing its connection, and none waits for another's answer.
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
from groupconv_server.executors.base import Task
from groupconv_worker.contract import Array
from groupconv_worker.lanes import frames
from groupconv_worker.lanes.endpoint import NUMBER, RUN, SIZE, Address, watch
from groupconv_worker.lanes.frames import BrokenLaneError, FrameKind
from groupconv_worker.lanes.handshake import PATIENCE, introduce
from groupconv_worker.lanes.memory import MappedMemory, fitting, shared
from groupconv_worker.lanes.shards import NUMBERS, ShardHeader, weights_of
from groupconv_worker.shard import Ran

log = logging.getLogger(__name__)

LARGEST = 2**28
"""Bytes of a shard's arrays, beyond which it always goes as Ray objects."""
KEPT = 2**28
"""Bytes of shared memory that idle connections to one worker keep for the next shards."""


class Lane:
    """The connections to one worker. Safe to use from several threads.

    Args:
        address: of the worker's endpoint.
        key: that it knows.

    Attributes:
        limit: bytes of arrays up to which a shard rides the lane.
        kind: "unix" or "tcp".
        busy: shards on their way.

    Raises:
        OSError: nobody is there, or somebody who does not know the key.
    """

    def __init__(self, address: Address, key: bytes) -> None:
        self._address, self._key = address, key
        self._lock = threading.Lock()
        self._closed = False
        self.limit = LARGEST
        self.kind = "unix" if isinstance(address, str) else "tcp"
        self.busy = 0
        self._idle = [Line(address, key)]

    @property
    def open(self) -> bool:
        """Whether it may be used; once closed it stays so."""
        return not self._closed

    def take(self, patience: float = PATIENCE) -> "Line":
        """A connection for one shard.

        Args:
            patience: seconds that the worker has to take a new one.

        Raises:
            TimeoutError: it did not in less than the time it may take.
            OSError: the worker takes no more; the lane is closed.
        """
        with self._lock:
            if self._closed:
                raise BrokenLaneError("the lane is closed")
            if self._idle:
                self.busy += 1
                return self._idle.pop()  # the last one used, so that few are
        return self._another(patience)

    def _another(self, patience: float = PATIENCE) -> "Line":
        try:
            line = Line(self._address, self._key, min(patience, PATIENCE))
        except BaseException as error:
            if not (isinstance(error, TimeoutError) and patience < PATIENCE):
                self.close()
            raise
        with self._lock:
            self.busy += 1
        return line

    def give(self, line: "Line") -> None:
        """A connection back, its answer received."""
        with self._lock:
            self.busy -= 1
            surplus = []
            if self._closed:
                surplus.append(line)
            else:
                self._idle.append(line)
                while len(self._idle) > 1 and sum(one.held for one in self._idle) > KEPT:
                    surplus.append(self._idle.pop(0))
        for one in surplus:
            one.close()

    def drop(self, line: "Line") -> None:
        """A connection back whose answer is not waited for."""
        with self._lock:
            self.busy -= 1
        line.close()

    def broke(self, line: "Line") -> None:
        """A connection back that broke; the idle ones are as doubtful."""
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.close()
        self.drop(line)

    def answers(self) -> bool:
        """Whether the worker takes another connection; if not, the lane is closed."""
        try:
            self.give(self._another())
        except OSError:
            return False
        return True

    def check(self) -> bool:
        """Whether the worker is there, as far as idle connections know; if not, the lane is closed."""
        with self._lock:
            gone = [line for line in self._idle if line.gone()]
            self._idle = [line for line in self._idle if line not in gone]
        for line in gone:
            line.close()
        return self.answers() if gone else self.open

    def close(self) -> None:
        """End it: who waits for an answer waits on, idle connections go."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()


class Line:
    """One connection: one shard at a time.

    Raises:
        OSError: nobody is there, or somebody who does not know the key.
    """

    def __init__(self, address: Address, key: bytes, patience: float = PATIENCE) -> None:
        self._local = isinstance(address, str)
        if isinstance(address, str):
            self._sock = socket.socket(socket.AF_UNIX)
        else:
            self._sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            self._sock.settimeout(max(patience, 1e-3))
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
        """Bytes of shared memory."""
        return 0 if self._memory is None else self._memory.size

    def fileno(self) -> int:
        """To wait on for the answer."""
        return self._sock.fileno()

    def gone(self) -> bool:
        """Whether the worker has closed it."""
        return frames.gone(self._sock)

    def send(self, task: Task, expires: float | None, *, full: bool) -> None:
        """Send a shard.

        Args:
            task: the shard.
            expires: by time.time(), when it is not to be started any more.
            full: whether the weights of resident layers go with it.

        Raises:
            MemoryError: there is no shared memory for it; nothing was sent.
            OSError: the connection is broken.
        """
        shard = ShardHeader.of(task.x, task.stages)
        size = shard.full if full else shard.size
        weights = weights_of(task.stages, full=full)
        if self._local:
            memory = self._room(size)
            x, _ = shard.arrays(memory)
            x[...] = task.x
            for there, here in zip(shard.weights(memory, full=full), weights, strict=True):
                there[...] = here
        head = RUN.pack(self._number(shard), math.inf if expires is None else expires, full)
        frames.send(self._sock, FrameKind.RUN, head, () if self._local else (task.x, *weights))
        self._shard = shard

    def receive(self, out: Array) -> tuple[Ran, ...] | None:
        """The answer to the shard that was sent; waits for it.

        Args:
            out: where the result lands.

        Returns:
            What came of each stage; None if the worker wants the weights, too.

        Raises:
            OSError: the connection is broken.
            GroupconvError: what the worker said.
        """
        assert self._shard is not None
        kind, body = frames.receive(self._sock)
        if kind is FrameKind.MISSING:
            return None
        if kind is FrameKind.FAILED:
            raise _failure(json.loads(body))
        if kind is not FrameKind.DONE:
            raise BrokenLaneError(f"a worker that says {kind.name}")
        if self._memory is None:
            frames.receive_arrays(self._sock, [out])
        else:
            out[...] = self._shard.arrays(self._memory)[1]
        return tuple(Ran(*one) for one in json.loads(body))

    def echo(self, x: Array, out: Array) -> None:
        """Bring bytes to the worker and as many back into `out`; what that costs without computing."""
        size = x.nbytes
        if self._local:
            memory = self._room(2 * size)
            memory.array(0, x.dtype, x.shape)[...] = x
        frames.send(self._sock, FrameKind.ECHO, SIZE.pack(size), () if self._local else (x,))
        frames.receive(self._sock)
        if self._local:
            out[...] = memory.array(size, x.dtype, x.shape)
        else:
            frames.receive_arrays(self._sock, [out])

    def close(self) -> None:
        """End it; a shard that waits is not started."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _number(self, shard: ShardHeader) -> int:
        """What the worker calls a shard; a new one is defined, in place of the oldest where there are many."""
        number = self._numbers.get(shard)
        if number is None:
            number = len(self._numbers)
            if number == NUMBERS:
                number = self._numbers.pop(next(iter(self._numbers)))
            frames.send(self._sock, FrameKind.DEFINE, NUMBER.pack(number) + shard.to_json())
            self._numbers[shard] = number
        return number

    def _room(self, size: int) -> MappedMemory:
        """Shared memory of so many bytes, the same as last time if it is large enough."""
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
    """An exception of the worker that is nobody's status; its traceback is for the log."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        super().__init__(name)


def _failure(said: dict[str, Any]) -> GroupconvError:
    if "status" in said:
        return BY_STATUS[said["status"]](said["message"])
    return WorkerError(said["error"], said["traceback"])
