"""Frames on a socket: a kind, a length and a body. Both sides know from the shard which arrays follow a frame."""

import os
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BODY = 16 * 2**20
"""Bytes of a body, at most. Definitions and answers are much smaller."""

BYTE = np.dtype(np.uint8)
_HEAD = struct.Struct("<BI")


class FrameKind(IntEnum):
    """Kinds of frames. Coordinators send the first four and NETWORK, workers LINK and BOX. The rest are answers."""

    MEMORY = 1  # shared memory: its size, and its file descriptor beside the frame
    DEFINE = 2  # a number, and the shard that it refers to from now on (see `shards`)
    RUN = 3  # run the shard of this number before it expires; its arrays are in memory, or follow
    ECHO = 4  # return so many bytes
    DONE = 5
    MISSING = 6  # the worker lacks weights, or a model, that were not sent
    FAILED = 7
    NETWORK = 8  # call or prepare a network (networks/messages.py); the model, if it is sent, and the inputs follow
    LINK = 9  # boxes of a network's part follow (networks/links.py)
    BOX = 10  # a box, and the run that it belongs to; its elements follow


_KINDS = {int(kind): kind for kind in FrameKind}


class BrokenLaneError(ConnectionError):
    """The other side is gone, or sent something that is no frame."""


def send(sock: socket.socket, kind: FrameKind, body: bytes = b"", arrays: Sequence[NDArray[Any]] = ()) -> None:
    """Send one frame, then the elements of `arrays`; contiguous arrays are not copied.

    Raises:
        OSError: the connection is broken.
    """
    sock.sendall(_HEAD.pack(kind, len(body)) + body, socket.MSG_MORE if arrays else 0)
    for array in arrays:
        sock.sendall(_bytes(np.ascontiguousarray(array)))


def send_with(sock: socket.socket, kind: FrameKind, body: bytes, handle: int) -> None:
    """Send one frame with a file descriptor over a Unix socket."""
    socket.send_fds(sock, [_HEAD.pack(kind, len(body)) + body], [handle])


def receive(sock: socket.socket) -> tuple[FrameKind, bytes]:
    """Receive the next frame.

    Raises:
        BrokenLaneError: the connection ended, or what came is no frame.
        OSError: the connection is broken.
    """
    head = bytearray(_HEAD.size)
    receive_into(sock, head)
    return _frame(sock, head)


def receive_with(sock: socket.socket) -> tuple[FrameKind, bytes, int | None]:
    """Receive the next frame, and the file descriptor that came with it or None; the caller closes it."""
    received, handles, _, _ = socket.recv_fds(sock, _HEAD.size, 1)
    handle = handles[0] if handles else None
    try:
        head = bytearray(received).ljust(_HEAD.size)
        receive_into(sock, memoryview(head)[len(received) :])
        kind, body = _frame(sock, head)
    except BaseException:
        if handle is not None:
            os.close(handle)
        raise
    return kind, body, handle


def receive_arrays(sock: socket.socket, arrays: Sequence[NDArray[Any]]) -> None:
    """Fill `arrays`, whatever their strides."""
    for array in arrays:
        if array.flags.c_contiguous:
            receive_into(sock, _bytes(array))
        else:
            whole = np.empty(array.shape, array.dtype)
            receive_into(sock, _bytes(whole))
            array[...] = whole


def receive_into(sock: socket.socket, buffer: bytearray | memoryview) -> None:
    """Fill a buffer."""
    view = memoryview(buffer)
    while view:
        count = sock.recv_into(view, 0, socket.MSG_WAITALL)
        if not count:
            raise BrokenLaneError("the other side is gone")
        view = view[count:]


def gone(sock: socket.socket) -> bool:
    """Whether the other side has closed the connection, or sent something unexpected; does not wait."""
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _frame(sock: socket.socket, head: bytearray) -> tuple[FrameKind, bytes]:
    kind, size = _HEAD.unpack(head)
    if size > MAX_BODY or kind not in _KINDS:
        raise BrokenLaneError(f"a frame of kind {kind} with {size} bytes")
    body = bytearray(size)
    receive_into(sock, body)
    return _KINDS[kind], bytes(body)


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
