"""The handshake of a lane: each side proves that it knows the key, without sending it.

Everything that is read before has a fixed length and is only compared. The scheme is challenge and response with
HMAC (RFC 2104) over both sides' random numbers, as in ISO/IEC 9798-4: no answer can be replayed or reflected.
"""

import hmac
import os
import secrets
import socket
import struct

from groupconv_worker.lanes.frames import BrokenLaneError, receive_into

NONCE = 32
KEY_BYTES = 32
TIMEOUT = 5.0
"""Seconds that the other side has for the handshake."""

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED of unix(7)


def new_key() -> bytes:
    """A key for the workers of one coordinator."""
    return secrets.token_bytes(KEY_BYTES)


def greet(sock: socket.socket, key: bytes) -> None:
    """The worker's side of the handshake.

    Raises:
        BrokenLaneError, OSError: the other side does not know the key, or has gone.

    Example:
        >>> import threading
        >>> ours, theirs = socket.socketpair()
        >>> caller = threading.Thread(target=introduce, args=(theirs, b"key"))
        >>> caller.start(); greet(ours, b"key"); caller.join()
        >>> caller = threading.Thread(target=ours.sendall, args=(bytes(2 * NONCE),))
        >>> caller.start(); greet(theirs, b"key")
        Traceback (most recent call last):
        ...
        groupconv_worker.lanes.frames.BrokenLaneError: the caller does not know the key
        >>> caller.join(); ours.close(); theirs.close()
    """
    mine = secrets.token_bytes(NONCE)
    sock.sendall(mine)
    theirs, proof = _read(sock), _read(sock)
    if not hmac.compare_digest(proof, _proof(key, b"coordinator", mine, theirs)):
        raise BrokenLaneError("the caller does not know the key")
    sock.sendall(_proof(key, b"worker", theirs, mine))


def introduce(sock: socket.socket, key: bytes) -> None:
    """The coordinator's side of the handshake.

    Raises:
        BrokenLaneError, OSError: the other side does not know the key, or refuses ours.
    """
    theirs, mine = _read(sock), secrets.token_bytes(NONCE)
    sock.sendall(mine + _proof(key, b"coordinator", theirs, mine))
    if not hmac.compare_digest(_read(sock), _proof(key, b"worker", mine, theirs)):
        raise BrokenLaneError("the worker does not know the key")


def same_user(sock: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket is of this process's user."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.geteuid())


def _read(sock: socket.socket) -> bytes:
    received = bytearray(NONCE)
    receive_into(sock, received)
    return bytes(received)


def _proof(key: bytes, who: bytes, asked: bytes, own: bytes) -> bytes:
    return hmac.digest(key, who + asked + own, "sha256")
