"""TLS and mutual TLS: who has no right certificate is refused, and certificates change under traffic."""

import asyncio
import logging
import os
import socket
import threading

import grpc
import numpy as np
import pytest
import trustme

import groupconv
from groupconv.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from groupconv_server import server as server_module
from groupconv_server.access.tls import Certificates
from groupconv_server.config import Config
from groupconv_server.server import Server

X, W = [[[1.0, 2.0, 3.0]]], [[[1.0, 1.0]]]


def written(folder, name, certificate):
    """A certificate and its key as files."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    paths[1].write_bytes(certificate.private_key_pem.bytes())
    return paths


def root(authority):
    return authority.cert_pem.bytes()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def stranger():
    return trustme.CA()


def secured(tmp_path, authority, **options):
    cert, key = written(tmp_path, "server", authority.issue_cert("localhost", "127.0.0.1"))
    small = {"port": 0, "executor": "local", "workers": 1, "threads": 1, "engine": "reference"}
    return Server(Config(**small, tls_cert=cert, tls_key=key, **options))


def answers(server, **options):
    """Whether one call through a new connection is answered; raises what it raises."""
    with groupconv.connect(server.address, timeout=60, **options) as client:
        client.conv1d(X, W)


@pytest.fixture(scope="module")
def mutual(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("mutual")
    (folder / "ca.pem").write_bytes(root(authority))
    with secured(folder, authority, tls_client_ca=folder / "ca.pem") as server:
        yield server


def test_encrypted_calls_are_answered_through_both_clients_unary_and_stream(tmp_path, authority):
    with secured(tmp_path, authority) as server:
        with groupconv.connect(server.address, root_certificates=root(authority), timeout=20) as client:
            assert client.conv1d(X, W).tolist() == [[[3.0, 5.0]]]
            assert client.stream_convolve(np.float32(X), [groupconv.Step(np.float32(W))]).tolist() == [[[3.0, 5.0]]]

        async def use():
            async with groupconv.aio.connect(server.address, root_certificates=root(authority), timeout=20) as aio:
                return await aio.conv1d(X, W)

        assert asyncio.run(use()).tolist() == [[[3.0, 5.0]]]


def test_a_client_without_tls_or_of_another_authority_is_refused(tmp_path, authority, stranger):
    with secured(tmp_path, authority) as server:
        for options in ({}, {"root_certificates": root(stranger)}, {"tls": True}):
            with pytest.raises(UnavailableError):
                answers(server, **options)
        answers(server, root_certificates=root(authority))


def test_mutual_tls_refuses_a_client_without_a_certificate_or_with_a_stranger_s(mutual, authority, stranger, tmp_path):
    cert, key = written(tmp_path, "client", authority.issue_cert("alice"))
    trusts = {"root_certificates": root(authority)}
    answers(mutual, **trusts, client_certificate=cert, client_key=str(key))
    with pytest.raises(UnavailableError):
        answers(mutual, **trusts)
    cert, key = written(tmp_path, "stranger", stranger.issue_cert("mallory"))
    with pytest.raises(UnavailableError):
        answers(mutual, **trusts, client_certificate=cert.read_bytes(), client_key=key.read_bytes())


def test_the_certificate_s_name_counts_unless_another_is_given(tmp_path, authority):
    cert, key = written(tmp_path, "server", authority.issue_cert("gpu-box"))
    config = Config(port=0, executor="local", workers=1, engine="reference", tls_cert=cert, tls_key=key)
    with Server(config) as server:
        with pytest.raises(UnavailableError):
            answers(server, root_certificates=root(authority))
        answers(server, root_certificates=root(authority), server_name="gpu-box")


def test_certificates_change_under_traffic(tmp_path, authority, stranger, caplog):
    """Calls on standing connections go on; new connections see the new certificate; a broken one changes nothing."""
    with secured(tmp_path, authority) as server:
        done, failed, calls = threading.Event(), [], 0

        def traffic(client):
            nonlocal calls
            while not done.is_set():
                try:
                    client.conv1d(X, W)
                    calls += 1
                except groupconv.GroupconvError as error:
                    failed.append(error)

        with groupconv.connect(server.address, root_certificates=root(authority), timeout=20) as client:
            client.status()
            thread = threading.Thread(target=traffic, args=(client,))
            thread.start()
            try:
                (tmp_path / "server.pem").write_text("no certificate")
                answers(server, root_certificates=root(authority))
                assert "serving on with the certificate read before" in caplog.text
                written(tmp_path, "server", stranger.issue_cert("localhost", "127.0.0.1"))
                answers(server, root_certificates=root(stranger))
                with pytest.raises(UnavailableError):
                    answers(server, root_certificates=root(authority))
                before = calls
                while calls < before + 3 and not failed:  # the old connection is used still
                    pass
            finally:
                done.set()
                thread.join()
        assert not failed


def test_a_server_that_others_reach_wants_tls_or_insecure():
    with pytest.raises(InvalidArgumentError, match="--insecure"):
        Server(Config(host="0.0.0.0", port=0))
    config = Config(host="0.0.0.0", port=0, insecure=True, executor="local", workers=1, engine="reference")
    with Server(config) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        grpc.channel_ready_future(channel).result(20)


@pytest.mark.parametrize("content", ["no PEM", None])
def test_a_server_says_what_is_wrong_with_its_certificate(tmp_path, authority, content):
    cert, key = written(tmp_path, "server", authority.issue_cert("localhost"))
    if content is None:
        key.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
    else:
        cert.write_text(content)
    with pytest.raises(FailedPreconditionError, match="no certificate with its key"):
        Server(Config(port=0, tls_cert=cert, tls_key=key))
    with pytest.raises(InvalidArgumentError, match="both"):
        Server(Config(port=0, tls_cert=cert))


def test_the_client_says_what_is_wrong_with_its_certificates(tmp_path):
    with pytest.raises(InvalidArgumentError, match="client_certificate and client_key together"):
        groupconv.connect("gpu-box:1", client_certificate=b"-----BEGIN ")
    with pytest.raises(InvalidArgumentError, match="root_certificates: expected PEM"):
        groupconv.connect("gpu-box:1", root_certificates=b"junk")
    with pytest.raises(FileNotFoundError):
        groupconv.connect("gpu-box:1", root_certificates=tmp_path / "none.pem")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path, authority, make, caplog):
    cert, key = written(tmp_path, "server", authority.issue_cert("localhost"))
    other = tmp_path / "other"
    make(other)
    with pytest.raises(FailedPreconditionError, match="other is no file"):
        Certificates(other, key)
    certificates = Certificates(cert, key, written(tmp_path, "ca", authority.issue_cert("ca"))[0])
    key.unlink()
    key.symlink_to(other)
    with caplog.at_level(logging.ERROR):
        certificates.reload()
    assert "server.key is no file" in caplog.text


@pytest.mark.parametrize("begun", [b"", bytes.fromhex("16030100c8010000c4")])
def test_a_handshake_that_stalls_ends(tmp_path, authority, begun, monkeypatch):
    monkeypatch.setattr(server_module, "HANDSHAKE_MS", 200)
    with secured(tmp_path, authority) as server, socket.create_connection(("127.0.0.1", server.port), 60) as stalled:
        stalled.sendall(begun)
        assert stalled.recv(1) == b""
