"""State and user of clients' TCP connections, from the kernel: gRPC for Python has neither."""

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import psutil

_ESTABLISHED = "01"
"""State of an established connection in /proc/net/tcp."""


def connected(peers: Iterable[str]) -> set[str]:
    """The peers that have a TCP connection to this process. Peers without a TCP address count as connected.

    Args:
        peers: as gRPC names them, `ipv4:127.0.0.1:40000` or `ipv6:%5B::1%5D:40000`.

    Example:
        >>> connected({"ipv4:192.0.2.1:9", "unix:"})
        {'unix:'}
    """
    here = {
        (_ip(c.raddr.ip), c.raddr.port)
        for c in psutil.Process().net_connections("tcp")
        if c.raddr and c.status == psutil.CONN_ESTABLISHED
    }
    return {peer for peer in peers if (address := _address(peer)) is None or address in here}


def connected_to(port: int, peers: Iterable[str]) -> set[str]:
    """The peers that have a TCP connection to a port of this machine, whichever process has it.

    Args:
        port: local port.
        peers: as gRPC names them. Those without a TCP address count as connected.
    """
    here = {remote for (_, local), remote, _ in _sockets() if local == port}
    return {peer for peer in peers if (address := _address(peer)) is None or address in here}


def user_of(peer: str) -> int | None:
    """The user of the process at the other end of a TCP connection on this machine.

    Args:
        peer: as gRPC names it.

    Returns:
        The user's id. None for a peer on another machine or in another network namespace, and if sockets of several
        users have the peer's address.
    """
    address = _address(peer)
    if address is None:
        return None
    users = {user for local, _, user in _sockets() if local == address}
    return users.pop() if len(users) == 1 else None


def _sockets() -> Iterator[tuple[tuple[str, int], tuple[str, int], int]]:
    """The local and the remote address and the user of each TCP connection in this network namespace."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:  # there is no IPv6, or no /proc
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _ESTABLISHED:
                yield _shown(columns[1]), _shown(columns[2]), int(columns[7])


def _shown(column: str) -> tuple[str, int]:
    """Host and port of a column of /proc/net/tcp."""
    host, port = column.split(":")
    words = bytes.fromhex(host)  # words of 4 bytes in the machine's byte order
    packed = struct.pack(f"!{len(words) // 4}I", *struct.unpack(f"={len(words) // 4}I", words))
    return _ip(str(ipaddress.ip_address(packed))), int(port, 16)


def _address(peer: str) -> tuple[str, int] | None:
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host, _, port = rest.rpartition(":")
    return _ip(host.strip("[]")), int(port)


def _ip(text: str) -> str:
    """The canonical text of an address. An IPv4 address mapped into IPv6 becomes the IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
