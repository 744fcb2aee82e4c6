"""Who is still connected."""

import os
import socket
import subprocess
import sys

import pytest

from groupconv_server.memory.connections import connected, user_of


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
            assert user_of(peer) == os.geteuid()
            client.close()
            assert there.recv(1) == b""
            assert connected({peer}) == set()
            assert user_of(peer) is None


def test_ipv4_within_ipv6_is_the_ipv4_address():
    server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with server, socket.create_connection(("127.0.0.1", server.getsockname()[1])) as client, server.accept()[0]:
        peer = f"ipv4:127.0.0.1:{client.getsockname()[1]}"
        assert connected({peer}) == {peer}
        assert user_of(peer) == os.geteuid()


def test_it_is_not_known_whose_a_peer_of_another_machine_is():
    assert [user_of(peer) for peer in ("ipv4:192.0.2.1:9", "unix:", "unix:/a", "ipv6:%5B2001:db8::1%5D:9")] == [
        None
    ] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run another user's process")
def test_the_user_is_that_of_the_other_end():
    program = (
        "import encodings.idna, os, socket, sys; os.setuid(12345); "  # not before: it may not read this Python's files
        "socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(1)"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with subprocess.Popen([sys.executable, "-c", program, port]) as client:
            server.settimeout(60)
            there, (host, port) = server.accept()
            with there:
                assert user_of(f"ipv4:{host}:{port}") == 12345
            assert client.wait(60) == 0
