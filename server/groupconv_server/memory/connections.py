"""Which peers of this process are still connected: gRPC for Python does not say when a connection ends."""

import ipaddress
from collections.abc import Iterable
from urllib.parse import unquote

import psutil


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
