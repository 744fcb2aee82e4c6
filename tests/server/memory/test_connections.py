"""Who is still connected."""

import socket

import pytest

from groupconv_server.memory.connections import connected


@pytest.mark.parametrize(
    ("listen", "connect", "spelled"),
    [("127.0.0.1", "127.0.0.1", "ipv4:127.0.0.1:{}"), ("::1", "::1", "ipv6:%5B::1%5D:{}")],
)
def test_a_peer_is_connected_until_it_leaves(listen, connect, spelled):
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    try:
        server = socket.create_server((listen, 0), family=family)
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        client = socket.create_connection((connect, server.getsockname()[1]))
        there, _ = server.accept()
        peer = spelled.format(client.getsockname()[1])
        with there:
            assert connected({peer}) == {peer}
            client.close()
            assert there.recv(1) == b""
            assert connected({peer}) == set()


def test_ipv4_within_ipv6_is_the_ipv4_address():
    server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with server, socket.create_connection(("127.0.0.1", server.getsockname()[1])) as client, server.accept()[0]:
        peer = f"ipv4:127.0.0.1:{client.getsockname()[1]}"
        assert connected({peer}) == {peer}
