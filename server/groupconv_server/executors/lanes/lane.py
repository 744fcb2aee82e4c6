"""The coordinator's side of a lane: its connections to one worker, and a shard over one of them.

A connection carries one shard at a time, and there are as many connections as shards were ever in flight at once. So a
shard is dropped by closing its connection, and no shard waits for the result of another.
"""

import logging
import threading

from groupconv_server.executors.lanes.connection import LaneConnection
from groupconv_worker.lanes.frames import BrokenLaneError
from groupconv_worker.lanes.handshake import TIMEOUT
from groupconv_worker.lanes.sockets import Address

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
        limit: bytes of arrays up to which a shard goes by the lane.
        kept: bytes of shared memory that idle connections keep for the next shards, at most.

    Attributes:
        address, key, limit: as above.
        kind: "unix" or "tcp".
        busy: shards in flight.

    Raises:
        OSError: nobody listens there, or the other side does not know the key.
    """

    def __init__(self, address: Address, key: bytes, *, limit: float = LARGEST, kept: int = KEPT) -> None:
        self.address, self.key = address, key
        self._lock = threading.Lock()
        self._closed = False
        self.limit, self._kept = limit, kept
        self.kind = "unix" if isinstance(address, str) else "tcp"
        self.busy = 0
        self._idle = [LaneConnection(address, key)]

    @property
    def open(self) -> bool:
        """Whether it may be used; a closed lane stays closed."""
        return not self._closed

    def take(self, timeout: float = TIMEOUT) -> LaneConnection:
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

    def _connect(self, timeout: float = TIMEOUT) -> LaneConnection:
        try:
            connection = LaneConnection(self.address, self.key, min(timeout, TIMEOUT))
        except BaseException as error:
            if not (isinstance(error, TimeoutError) and timeout < TIMEOUT):
                self.close()
            raise
        with self._lock:
            self.busy += 1
        return connection

    def give(self, connection: LaneConnection) -> None:
        """Return a connection whose result was received."""
        with self._lock:
            self.busy -= 1
            surplus = []
            if self._closed:
                surplus.append(connection)
            else:
                self._idle.append(connection)
                while len(self._idle) > 1 and sum(connection.held for connection in self._idle) > self._kept:
                    surplus.append(self._idle.pop(0))
        for old in surplus:
            old.close()

    def drop(self, connection: LaneConnection) -> None:
        """Close a connection whose result is not waited for."""
        with self._lock:
            self.busy -= 1
        connection.close()

    def broke(self, connection: LaneConnection) -> None:
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
