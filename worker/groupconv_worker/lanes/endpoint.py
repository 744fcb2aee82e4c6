"""The worker's side of its lanes: a listener, and a thread for each connection.

A connection runs one shard at a time. The worker runtime decides how many connections run shards at once.
"""

import contextlib
import json
import logging
import math
import secrets
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from groupconv.errors import GroupconvError
from groupconv_worker.contract import Array
from groupconv_worker.lanes import frames
from groupconv_worker.lanes.frames import BrokenLaneError, FrameKind
from groupconv_worker.lanes.handshake import TIMEOUT, greet, same_user
from groupconv_worker.lanes.memory import MappedMemory, fitting
from groupconv_worker.lanes.shards import ShardHeader
from groupconv_worker.lanes.sockets import Address, family_of, watch
from groupconv_worker.shard import Stage, StageRun

log = logging.getLogger(__name__)

RUN = struct.Struct("<Id?")  # number of the shard, when it expires by time.time(), whether all weights are there
NUMBER = struct.Struct("<I")
SIZE = struct.Struct("<Q")
HANDSHAKES = 16
"""Connections that may be in the handshake at a time; more wait."""
RETRY = 0.1
"""Seconds until it accepts again after the process had no descriptor left."""


class Run(Protocol):
    """Runs a shard into `out`; see `groupconv_worker.actor.Worker.compute`."""

    def __call__(
        self,
        stages: Sequence[Stage],
        x: Array,
        out: Array,
        expires: float | None,
        *,
        dropped: Callable[[], bool],
        borrowed: bool,
    ) -> tuple[StageRun, ...] | None:
        """Run the shard."""


PageLock = Callable[[Array], Callable[[], None]]
"""Page-locks memory, (bytes,) uint8, for a device, and returns the function that undoes it (`cuda.page_locked`)."""

AnswerNetwork = Callable[
    [bytes, Callable[[Sequence[Array]], None], Callable[[], bool]], tuple[bytes, Sequence[Array]] | None
]
"""Answers the call of a network; see `groupconv_worker.networks.messages.answer`."""
ReceiveBoxes = Callable[[socket.socket, bytes], None]
"""Receives the boxes that follow a LINK frame, whose body it gets, until the link ends (`PartRunner.receive`)."""


def refuse(_sock: socket.socket, _body: bytes) -> None:
    """Take no boxes of networks."""
    raise BrokenLaneError("this worker has no parts of networks")


class LaneEndpoint:
    """Takes shards from coordinators that know the key, and boxes of networks from other workers that do.

    Args:
        run: runs a shard.
        key: that a caller must prove to know.
        host: to listen on, for callers on other nodes; None listens on a Unix socket of the abstract namespace, which
            leaves no file behind.
        lock: page-locks the memory of its connections; None for an engine without a device.
        networks: answers calls of networks; None where there are none.
        link: receives boxes.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(
        self,
        run: Run,
        key: bytes,
        host: str | None = None,
        lock: PageLock | None = None,
        networks: AnswerNetwork | None = None,
        link: ReceiveBoxes = refuse,
    ) -> None:
        self._run, self._key, self._local, self._lock, self._networks = run, key, host is None, lock, networks
        self._link = link
        if host is None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(f"\0groupconv-lane-{secrets.token_hex(16)}")
        else:
            self._listener = socket.create_server((host, 0), family=family_of(host))
        self._listener.listen()
        self._closed = threading.Event()
        self._handshakes = threading.BoundedSemaphore(HANDSHAKES)
        threading.Thread(target=self._accept, name="lane-listener", daemon=True).start()

    @property
    def address(self) -> Address:
        """The address that a coordinator connects to."""
        name = self._listener.getsockname()
        if self._local:
            return str(name.decode())[1:]
        return str(name[0]), int(name[1])

    def close(self) -> None:
        """Accept no more connections; open ones end with their callers."""
        self._closed.set()
        with contextlib.suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            self._handshakes.acquire()
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed, or no descriptor is left for now
                self._handshakes.release()
                if self._closed.wait(RETRY):
                    return
                continue
            threading.Thread(target=self._serve, args=(sock,), name="lane", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                try:
                    self._authenticate(sock)
                finally:
                    self._handshakes.release()
                connection = _Connection(sock, self._run, self._lock, self._networks, self._link)
                with contextlib.closing(connection):
                    connection.serve()
            except (OSError, ValueError, KeyError, TypeError, struct.error) as error:  # also malformed frames
                log.debug("a lane ended: %s", error)

    def _authenticate(self, sock: socket.socket) -> None:
        if self._local:
            if not same_user(sock):
                raise BrokenLaneError("the caller is a process of another user")
        else:
            watch(sock)
        sock.settimeout(TIMEOUT)
        greet(sock, self._key)
        sock.settimeout(None)


class _Connection:
    """One caller: the shards that it has defined, and the memory of their arrays."""

    def __init__(
        self, sock: socket.socket, run: Run, lock: PageLock | None, networks: AnswerNetwork | None, link: ReceiveBoxes
    ) -> None:
        self._sock, self._run, self._lock, self._networks, self._link = sock, run, lock, networks, link
        self._inline = sock.family != socket.AF_UNIX
        self._memory = MappedMemory(fitting(1))
        self._unlock: Callable[[], None] | None = None  # while that memory is page-locked
        self._shards: dict[int, ShardHeader] = {}

    def serve(self) -> None:
        while True:
            kind, body, handle = frames.receive_with(self._sock)
            match kind:
                case FrameKind.RUN:
                    self._answer(*RUN.unpack(body))
                case FrameKind.DEFINE:
                    self._shards[NUMBER.unpack_from(body)[0]] = ShardHeader.from_json(body[NUMBER.size :])
                case FrameKind.MEMORY if handle is not None:
                    self._use(MappedMemory(SIZE.unpack(body)[0], handle))
                case FrameKind.NETWORK if self._networks is not None:
                    self._send_answer(partial(self._networks, body, self._receive, self._gone))
                case FrameKind.ECHO:
                    self._echo(*SIZE.unpack(body))
                case FrameKind.LINK:
                    self._link(self._sock, body)
                    return
                case _:
                    raise BrokenLaneError(f"the caller sent an unexpected {kind.name}")

    def _answer(self, number: int, expires: float, full: bool) -> None:
        shard = self._shards[number]
        if self._inline:
            self._make_room(shard.full if full else shard.size)
        x, out = shard.arrays(self._memory)
        if self._inline:
            frames.receive_arrays(self._sock, [x, *shard.weights(self._memory, full=full)])
        stages = shard.stages(self._memory, full=full)
        until = None if math.isinf(expires) else expires

        def run() -> tuple[bytes, Sequence[Array]] | None:
            ran = self._run(stages, x, out, until, dropped=self._gone, borrowed=True)
            return None if ran is None else (json.dumps(ran).encode(), [out] if self._inline else ())

        self._send_answer(run)

    def _send_answer(self, run: Callable[[], tuple[bytes, Sequence[Array]] | None]) -> None:
        try:
            answer = run()
        except BrokenLaneError:
            raise
        except GroupconvError as error:
            self._fail({"status": error.status, "message": str(error)})
        except Exception as error:
            text = traceback.format_exc()
            log.exception("a shard or a network failed")
            self._fail({"error": type(error).__name__, "traceback": text})
        else:
            if answer is None:
                frames.send(self._sock, FrameKind.MISSING)
            else:
                frames.send(self._sock, FrameKind.DONE, *answer)

    def _fail(self, facts: dict[str, str]) -> None:
        frames.send(self._sock, FrameKind.FAILED, json.dumps(facts).encode())

    def _receive(self, arrays: Sequence[Array]) -> None:
        frames.receive_arrays(self._sock, arrays)

    def _gone(self) -> bool:
        return frames.gone(self._sock)

    def _echo(self, size: int) -> None:
        """Copy `size` bytes behind themselves and return them, so that the caller can measure the transfer alone."""
        if self._inline:
            self._make_room(2 * size)
        here, echoed = (self._memory.array(at, frames.BYTE, (size,)) for at in (0, size))
        if self._inline:
            frames.receive_arrays(self._sock, [here])
        echoed[...] = here
        frames.send(self._sock, FrameKind.DONE, b"[]", [echoed] if self._inline else ())

    def _make_room(self, size: int) -> None:
        if self._memory.size < size:
            self._use(MappedMemory(fitting(size, self._memory.size)))

    def _use(self, memory: MappedMemory) -> None:
        """Have the arrays in new memory from now on."""
        self.close()
        self._memory = memory
        if self._lock is not None:
            self._unlock = self._lock(memory.array(0, frames.BYTE, (memory.size,)))

    def close(self) -> None:
        """Let the device forget the memory, before it is unmapped."""
        if self._unlock is not None:
            self._unlock()
            self._unlock = None
