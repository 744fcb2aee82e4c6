"""Addresses: which ones are local. Only the text counts; no name is resolved, because it could resolve to anything."""

import ipaddress
from urllib.parse import unquote


def is_local(target: str) -> bool:
    """Whether a gRPC target names this machine: a Unix socket, `localhost` or loopback addresses alone.

    Example:
        >>> [is_local(t) for t in ("localhost:50051", "127.0.0.2:1", "ipv6:[::1]:1", "dns:///localhost", "unix:/tmp/s")]
        [True, True, True, True, True]
        >>> [is_local(t) for t in ("0.0.0.0:50051", "gpu-box", "ipv4:127.0.0.1:1,10.0.0.7:1", "localhost.evil.org:1")]
        [False, False, False, False]
    """
    scheme, colon, rest = target.partition(":")
    if colon and scheme in {"unix", "unix-abstract"}:
        return True
    if colon and scheme in {"dns", "ipv4", "ipv6"}:
        target = rest.rpartition("/")[2]
    return all(is_loopback(_host(address)) for address in target.split(","))


def is_loopback(host: str) -> bool:
    """Whether a host is `localhost` or a loopback address.

    Example:
        >>> is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("localhost")
        (True, False, True)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def joined(host: str, port: int) -> str:
    """host:port, with the brackets that an IPv6 address needs.

    Example:
        >>> joined("::1", 50051), joined("localhost", 1)
        ('[::1]:50051', 'localhost:1')
    """
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _host(address: str) -> str:
    address = unquote(address)
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.partition(":")[0]
