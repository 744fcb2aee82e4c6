"""Why a server cannot listen on an address."""

import socket


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
