"""Sockets between processes that know a key: over Unix sockets on one node, over TCP between nodes."""

import socket

from groupconv_worker.lanes.handshake import TIMEOUT, introduce

Address = str | tuple[str, int]
"""The name of a Unix socket in the abstract namespace, or host and port."""


def connect(address: Address, key: bytes, timeout: float = TIMEOUT) -> socket.socket:
    """A connection to an endpoint, after the handshake.

    Args:
        address: of the endpoint.
        key: that it knows.
        timeout: seconds that it has to accept, and again to answer.

    Raises:
        OSError: nobody listens there, or the other side does not know the key.
    """
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else family_of(address[0]))
    try:
        sock.settimeout(max(timeout, 1e-3))
        sock.connect(f"\0{address}" if isinstance(address, str) else address)
        if not isinstance(address, str):
            watch(sock)
        introduce(sock, key)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


def watch(sock: socket.socket) -> None:
    """Set TCP to notice within about two seconds that the other host is gone, and to send small frames at once.

    Source: tcp(7).
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 1),
        (socket.TCP_KEEPINTVL, 1),
        (socket.TCP_KEEPCNT, 2),
        (socket.TCP_USER_TIMEOUT, 2000),  # milliseconds that what was sent may stay unacknowledged
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def family_of(host: str) -> socket.AddressFamily:
    """The family of an IP address.

    Example:
        >>> family_of("::1").name, family_of("10.0.0.1").name
        ('AF_INET6', 'AF_INET')
    """
    return socket.AF_INET6 if ":" in host else socket.AF_INET
