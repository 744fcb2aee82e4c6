"""Connection trouble ends in exceptions that name the cause and the argument and the flag that mend it."""

import asyncio
import http.server
import re
import socket
import socketserver
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import trustme
from typer.testing import CliRunner

import groupconv
from groupconv.errors import (
    ConnectError,
    DeadlineExceededError,
    ForeignServerError,
    NoServerError,
    TlsError,
    UnauthenticatedError,
)
from groupconv.transport.channel import Connection
from groupconv.transport.diagnosis import diagnose
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import entry_text, new_token
from groupconv_server.cli.app import app
from groupconv_server.config import Config
from groupconv_server.server import Server

SMALL = {"port": 0, "executor": "local", "workers": 1, "threads": 1, "engine": "reference"}
X, W = np.ones((1, 1, 3), np.float32), np.ones((1, 1, 2), np.float32)


def written(folder, name, certificate):
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    paths[1].write_bytes(certificate.private_key_pem.bytes())
    return paths


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_bytes(authority.cert_pem.bytes())
    return path


@pytest.fixture(scope="module")
def strangers_ca(tmp_path_factory):
    path = tmp_path_factory.mktemp("stranger") / "ca.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes())
    return path


@pytest.fixture(scope="module")
def plain():
    with Server(Config(**SMALL)) as server:
        yield f"localhost:{server.port}"


@pytest.fixture(scope="module")
def encrypted(authority, tmp_path_factory):
    cert, key = written(tmp_path_factory.mktemp("tls"), "server", authority.issue_cert("gpu-box", "localhost"))
    with Server(Config(**SMALL, tls_cert=cert, tls_key=key)) as server:
        yield f"localhost:{server.port}"


@pytest.fixture(scope="module")
def mutual(authority, ca, tmp_path_factory):
    cert, key = written(tmp_path_factory.mktemp("mutual"), "server", authority.issue_cert("localhost"))
    with Server(Config(**SMALL, tls_cert=cert, tls_key=key, tls_client_ca=ca)) as server:
        yield f"localhost:{server.port}"


@pytest.fixture(scope="module")
def web():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Closes(socketserver.BaseRequestHandler):
    """Closes each connection, as the port of a container whose program does not listen yet."""


@pytest.fixture(scope="module")
def closes():
    with socketserver.TCPServer(("127.0.0.1", 0), _Closes) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def other_grpc():
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture(scope="module")
def nobody():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        yield f"localhost:{bound.getsockname()[1]}"


TROUBLE = [
    (
        "encrypted",
        {},
        TlsError,
        r"server uses TLS and this client does not; .*tls=True.*root_certificates=.*--tls, --ca",
    ),
    ("mutual", {}, TlsError, r"server uses TLS and this client does not"),
    ("plain", {"root_certificates": "ca"}, TlsError, r"client uses TLS and the server does not; .*tls=True.*--tls"),
    ("plain", {"tls": True}, TlsError, r"client uses TLS and the server does not"),
    ("encrypted", {"root_certificates": "strangers_ca"}, TlsError, r"not trusted .*root_certificates=, --ca\)"),
    ("encrypted", {"tls": True}, TlsError, r"not trusted .*root_certificates=, --ca\)"),
    (
        "encrypted",
        {"root_certificates": "ca", "server_name": "other-box"},
        TlsError,
        r"certificate is not for other-box; .*server_name=, --server-name",
    ),
    ("mutual", {"root_certificates": "ca"}, TlsError, r"requires a certificate of the client; .*client_key=.*--cert"),
    ("nobody", {}, NoServerError, r"no server accepts connections there \(Connection refused\); .*groupconv serve"),
    ("nobody", {"tls": True}, NoServerError, r"Connection refused"),
    ("web", {}, ForeignServerError, r"does not speak gRPC and is not groupconv; .*--target"),
    ("other_grpc", {}, ForeignServerError, r"is not groupconv"),
    ("closes", {}, NoServerError, r"closed at once: .* starting or stopped .*; try again, .*--target"),
    ("closes", {"tls": True}, NoServerError, r"closed at once: .* starting or stopped .*; try again, .*--target"),
]


@pytest.mark.parametrize(("where", "options", "kind", "words"), TROUBLE)
def test_the_client_says_what_is_wrong(request, where, options, kind, words):
    target = request.getfixturevalue(where)
    given = {k: request.getfixturevalue(v) if k == "root_certificates" else v for k, v in options.items()}
    with groupconv.connect(target, timeout=30, **given) as client, pytest.raises(kind, match=words) as caught:
        client.convolve(X, W)
    assert isinstance(caught.value, ConnectError)
    assert caught.value.target == target
    assert str(caught.value).startswith(f"{target}: ")


@pytest.mark.parametrize(("where", "kind"), [("encrypted", TlsError), ("other_grpc", ForeignServerError)])
def test_the_awaiting_client_says_it_too(request, where, kind):
    async def awaiting():
        async with groupconv.aio.connect(request.getfixturevalue(where), timeout=30) as client:
            await client.convolve(X, W)

    with pytest.raises(kind):
        asyncio.run(awaiting())


@pytest.mark.parametrize("call", ["stream", "load"])
def test_streams_and_uploads_say_it_at_once(encrypted, call):
    def run(client):
        if call == "load":
            return client.load_layer("l", W)
        return client.stream_convolve(X, [groupconv.Step(W)])

    with groupconv.connect(encrypted, timeout=30) as client, pytest.raises(TlsError, match="server uses TLS"):
        run(client)

    async def awaiting():
        async with groupconv.aio.connect(encrypted, timeout=30) as client:
            await run(client)

    with pytest.raises(TlsError, match="server uses TLS"):
        asyncio.run(awaiting())


def test_an_unknown_host_and_a_socket_that_is_not_there(tmp_path):
    with groupconv.connect("no-such-host.invalid:1", timeout=30) as client, pytest.raises(NoServerError) as caught:
        client.status()
    assert "the host name is unknown" in str(caught.value)
    with groupconv.connect(f"unix:{tmp_path}/none", timeout=30) as client, pytest.raises(NoServerError) as caught:
        client.status()
    assert "No such file or directory" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "cure"),
    [
        ("http://no-such-host.invalid:50051", "as in no-such-host.invalid:50051"),
        ("https://no-such-host.invalid/", "without http, as in no-such-host.invalid"),
        ("no-such-host.invalid", "as in no-such-host.invalid:50051"),
    ],
)
def test_an_address_that_is_written_in_another_way_is_explained(target, cure):
    found = diagnose(Connection(target))
    assert isinstance(found, NoServerError)
    assert cure in str(found)


def test_the_command_line_says_the_flag(encrypted):
    result = CliRunner().invoke(app(), ["status", "--target", encrypted])
    assert result.exit_code != 0
    assert re.search(r"uses TLS.*--tls", " ".join(result.output.split()))


def test_a_missing_token_names_its_argument(tmp_path):
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry_text("alice", new_token(), CallerLimits()))
    words = r"token=.*GROUPCONV_TOKEN.*--token-file"
    with (
        Server(Config(**SMALL, tokens=tokens)) as server,
        groupconv.connect(server.address, timeout=30) as client,
        pytest.raises(UnauthenticatedError, match=words),
    ):
        client.status()


def test_a_server_that_stays_silent_is_named_with_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with groupconv.connect(target, timeout=0.2) as client, pytest.raises(DeadlineExceededError) as raised:
            client.status()
    assert str(raised.value) == "the server did not answer within the timeout (timeout=, --timeout)"


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_stays_silent_is_not_called_foreign(tls):
    """It may be groupconv and answer later: calls that may be tried again are."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = diagnose(Connection(f"127.0.0.1:{silent.getsockname()[1]}", tls=tls))
    assert isinstance(found, NoServerError)
    assert "accepts connections there and does not answer" in str(found)
