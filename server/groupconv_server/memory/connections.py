"""What the kernel knows of this process's peers: gRPC for Python says neither that one has gone nor whose it is."""

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import psutil

_ESTABLISHED = "01"
"""The state of a connection in /proc/net/tcp."""


def connected(peers: Iterable[str]) -> set[str]:
    """Of some peers, those with a TCP connection to this process; one that is not a TCP address counts as there.

    Args:
        peers: as gRPC writes them, `ipv4:127.0.0.1:40000` or `ipv6:%5B::1%5D:40000`.

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


def user_of(peer: str) -> int | None:
    """The user whose process is at the other end of a TCP connection within this machine; None if that is not known.

    Args:
        peer: as gRPC writes it.

    Returns:
        The user's id as this process sees it. None for a peer of another machine or network namespace, and where
        sockets of several users have that address, as ones that are connected to different ports may.
    """
    address = _address(peer)
    if address is None:
        return None
    users = {user for local, user in _sockets() if local == address}
    return users.pop() if len(users) == 1 else None


def _sockets() -> Iterator[tuple[tuple[str, int], int]]:
    """The local address and the user of every TCP connection of this network namespace."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:  # no IPv6 here, or no such system
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _ESTABLISHED:
                host, port = columns[1].split(":")
                words = bytes.fromhex(host)  # each word of 4 bytes in the machine's order
                packed = struct.pack(f"!{len(words) // 4}I", *struct.unpack(f"={len(words) // 4}I", words))
                yield (_ip(str(ipaddress.ip_address(packed))), int(port, 16)), int(columns[7])


def _address(peer: str) -> tuple[str, int] | None:
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host, _, port = rest.rpartition(":")
    return _ip(host.strip("[]")), int(port)


def _ip(text: str) -> str:
    """One spelling for each address: an IPv4 address within IPv6 is the IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
