"""Addresses that a server listens on, and why it cannot."""

import socket

from groupconv.errors import UnavailableError
from groupconv.transport.address import joined


def cannot_listen(address: str, why: str) -> UnavailableError:
    """The error of a server that cannot listen on its address."""
    return UnavailableError(f"cannot listen on {address}: {why}; give another --port or --host")


def reserve(host: str, port: int) -> socket.socket:
    """A socket that has the port without listening, so that processes may share it and no other server gets it.

    Raises:
        UnavailableError: the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as first:  # refused if anyone has the port, even to share it
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(address)
            address = first.getsockname()
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        raise cannot_listen(joined(host, port), error.strerror or str(error)) from None
    return held


def why_not_bound(host: str, port: int) -> str:
    """The reason why no server can listen on an address. gRPC only logs it, so a plain socket tries again.

    Example:
        >>> with socket.create_server(("127.0.0.1", 0)) as other:
        ...     why_not_bound(*other.getsockname())
        'Address already in use'
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return "gRPC cannot bind it"
