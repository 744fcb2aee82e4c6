"""Who may use the web port: tokens, origins, TLS, and what the audit says of it."""

import http.client
import ssl
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import trustme
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from groupconv.v1 import cluster_pb2
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tls import Certificates
from groupconv_server.access.tokens import entry_text
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server
from groupconv_server.telemetry import audit
from groupconv_server.web.listener import WebListener
from web_calls import CONVOLVE, PROTOCOLS, SMALL, TOKEN, answered, call, convolution, http_call, opened


@pytest.fixture(scope="module")
def served():
    limits = Limits(message_bytes=2**20, tensor_bytes=2**22, stream_idle_seconds=0.2)
    with Server(Config(**SMALL, limits=limits, queue_bytes=2**19)) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(entry_text("alice", TOKEN, CallerLimits()))
    with Server(Config(**SMALL, tokens=path, limits=Limits(message_bytes=2**20))) as server:
        yield server


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_token_is_needed_where_it_is_over_grpc(guarded, protocol):
    request = cluster_pb2.GetClusterRequest()
    for headers in ({}, {"authorization": "Bearer wrong"}):
        with pytest.raises(ConnectError, match="token") as caught:
            call(guarded, "GetCluster", request, protocol, headers=headers)
        assert caught.value.code is Code.UNAUTHENTICATED
    assert (
        len(call(guarded, "GetCluster", request, protocol, headers={"authorization": f"Bearer {TOKEN}"}).workers) == 1
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_message_is_limited_as_over_grpc(guarded, protocol):
    token = {"authorization": f"Bearer {TOKEN}"}
    with pytest.raises(ConnectError, match="1048576") as caught:
        call(guarded, "Convolve", convolution(np.ones((1, 1, 2**19)), np.ones((1, 1, 2))), protocol, headers=token)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.fixture
def audited(monkeypatch):
    """The entries of the audit, as they are made."""
    entries, failed = [], audit.failed
    monkeypatch.setattr(audit, "failed", lambda entry: entries.append(entry) or failed(entry))
    return entries


def test_a_caller_without_a_token_is_refused_before_its_body_is_read_and_audited(guarded, audited):
    with opened(guarded, 2**30) as connection:
        status, body = answered(connection)
        mine = f"web:127.0.0.1:{connection.getsockname()[1]}"
    assert (status, body["code"]) == (401, "unauthenticated")
    assert [(entry.code, entry.method) for entry in audited if entry.peer == mine] == [("UNAUTHENTICATED", CONVOLVE)]


def test_a_caller_over_tcp_cannot_claim_another_address(served, audited):
    claim = (("x-groupconv-peer", "web:198.51.100.7:1"), ("x-request-id", "claims"))
    with grpc.insecure_channel(served.address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(CONVOLVE)(b"\xff", metadata=claim, timeout=60)
    assert [entry.peer.partition(":")[0] for entry in audited if entry.request_id == "claims"] == ["ipv4"]


def test_no_other_origin_may_call_unless_it_is_named(served):
    preflight = {"origin": "https://lab.example", "access_control_request_method": "POST"}
    status, headers, _ = http_call(served, CONVOLVE, method="OPTIONS", **preflight)
    assert status != 200
    assert "access-control-allow-origin" not in headers
    with Server(Config(**SMALL, web_origins=("https://lab.example",))) as server:
        wanted = "authorization,content-type,connect-protocol-version,x-grpc-web"
        more = {"access_control_request_headers": wanted}
        status, headers, _ = http_call(server, CONVOLVE, method="OPTIONS", **preflight, **more)
        assert (status, headers["access-control-allow-origin"]) == (200, "https://lab.example")
        preflight["origin"] = "https://evil.example"
        status, headers, _ = http_call(server, CONVOLVE, method="OPTIONS", **preflight)
        assert (status, "access-control-allow-origin" in headers) == (400, False)


def test_a_name_that_only_leads_to_loopback_is_refused(served):
    """A site that points its own name at 127.0.0.1 would have this server's origin in a browser."""
    assert http_call(served, CONVOLVE, b"{}", host="evil.example", content_type="application/json")[0] == 400
    assert (
        http_call(
            served,
            "/groupconv.v1.ClusterService/GetCluster",
            b"{}",
            host="localhost:1",
            content_type="application/json",
        )[0]
        == 200
    )


def test_tls_is_the_servers_and_its_certificate_is_renewed(tmp_path):
    def issue(authority):
        issued = authority.issue_cert("localhost")
        (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
        (tmp_path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())

    def status(server, authority):
        """Of the page's path, through a client that trusts one authority alone."""
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        port = urlsplit(server.web_url).port
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
        connection.request(
            "POST", "/groupconv.v1.ClusterService/GetCluster", b"{}", {"Content-Type": "application/json"}
        )
        return connection.getresponse().status

    first, second = trustme.CA(), trustme.CA()
    issue(first)
    options = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    with Server(Config(**SMALL, host="localhost", **options)) as server:
        assert server.web_url.startswith("https://localhost:")
        assert status(server, first) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            status(server, second)
        issue(second)
        assert status(server, second) == 200


def test_a_web_port_that_cannot_start_is_an_error(tmp_path):
    issued = trustme.CA().issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    listener = WebListener(Config(**SMALL, host="localhost"), Certificates(cert, key), None)
    try:
        key.unlink()
        with pytest.raises(FileNotFoundError):
            listener.start()
    finally:
        listener.close()


def get_status(connection):
    connection.request("GET", "/nothing")
    return connection.getresponse().status


def test_mutual_tls_refuses_who_has_no_certificate(tmp_path):
    authority = trustme.CA()
    issued, client = authority.issue_cert("localhost"), authority.issue_cert("client")
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    for name, one in (("server", issued), ("client", client)):
        one.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        one.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    options = {"tls_cert": tmp_path / "server.pem", "tls_key": tmp_path / "server.key"}
    with Server(Config(**SMALL, host="localhost", **options, tls_client_ca=tmp_path / "ca.pem")) as server:
        for known in (False, True):
            context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
            if known:
                context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
            port = urlsplit(server.web_url).port
            connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
            if known:
                assert get_status(connection) == 404
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    get_status(connection)
