"""Callers of the web port that stall, do not read, or send what no browser sends."""

import asyncio
import http.client
import json
import logging
import socket
import threading
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import numpy as np
import pytest
from google.protobuf import json_format

from groupconv.v1 import convolution_pb2
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server
from groupconv_server.web import connection
from groupconv_server.web.gateway import Gateway
from waiting import until
from web_calls import CONVOLVE, SMALL, answered, convolution, http_call

CLUSTER = "/groupconv.v1.ClusterService/GetCluster"
MIB = 2**20


@pytest.fixture(scope="module")
def served():
    with Server(Config(**SMALL, queue_bytes=160 * MIB)) as server:
        yield server


def sent(server, data, receive_buffer=None):
    """A connection on which bytes were sent."""
    url = urlsplit(server.web_url)
    found = socket.socket()
    if receive_buffer is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    found.settimeout(60)
    found.connect((url.hostname, url.port))
    found.sendall(data)
    return found


def posted(path, headers=b"", body=b""):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/proto\r\n".encode()
    return head + b"Content-Length: %d\r\n" % len(body) + headers + b"\r\n" + body


def answer_of(nbytes):
    """A small message that has a large answer."""
    request = convolution(np.ones((1, 1, 2)), np.ones((1, 1, 1)))
    request.steps[0].spec.padding_low.append(nbytes // 4)
    request.steps[0].spec.padding_high.append(0)
    return request.SerializeToString()


def status(server):
    return http_call(server, CLUSTER, b"", content_type="application/proto")[0]


@pytest.mark.parametrize("name", ["authorization", "x-request-id", "traceparent", "grpc-timeout"])
@pytest.mark.parametrize("value", ["\xff\xfe", "a\tb", "\x01"])
def test_a_header_that_is_no_text_is_named_and_logged_nowhere(served, name, value, caplog):
    with caplog.at_level(logging.ERROR), sent(served, posted(CLUSTER, f"{name}: {value}\r\n".encode("latin-1"))) as it:
        answer = http.client.HTTPResponse(it)
        answer.begin()
        assert answer.status == 400
        body = answer.read().decode()
    assert name in body or "Invalid HTTP" in body, body
    assert not caplog.records


def test_headers_that_nobody_reads_may_hold_anything(served):
    assert http_call(served, CLUSTER, b"", content_type="application/proto", cookie="a=\xff\xe4")[0] == 200


def test_two_lengths_of_one_body_are_refused_and_what_follows_is_not_read(served):
    smuggled = b"0\r\n\r\n" + posted("/hidden")
    with sent(served, posted(CLUSTER, b"Transfer-Encoding: chunked\r\n") + smuggled) as it:
        code, body = answered(it)
        assert (code, body["code"]) == (400, "invalid_argument")
        assert it.recv(1) == b""


def test_the_longest_timeout_of_grpc_has_not_passed(served):
    code, headers, body = http_call(
        served, CLUSTER, bytes(5), content_type="application/grpc-web+proto", grpc_timeout="99999999H"
    )
    assert code == 200, headers
    assert b"grpc-status: 0" in body


def test_answers_that_nobody_reads_are_counted_until_their_connection_ends(served):
    message = posted(CONVOLVE, body=answer_of(40 * MIB))
    with ExitStack() as connections:

        def refused():
            """Ask for one more answer, or be refused."""
            if (code := status(served)) == 200:
                connections.enter_context(sent(served, message, receive_buffer=4096))
            return code == 429

        until(refused)
    until(lambda: status(served) == 200)


def test_an_answer_that_is_not_read_ends_after_a_while(caplog):
    limits = Limits(stream_idle_seconds=0.2)
    with (
        Server(Config(**SMALL, limits=limits)) as server,
        caplog.at_level(logging.INFO),
        sent(server, posted(CONVOLVE, body=answer_of(40 * MIB)), receive_buffer=4096),
    ):
        until(lambda: "was not read in time" in caplog.text)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("begun", [b"", b"POST ", posted(CLUSTER)[:-2]])
def test_a_connection_whose_headers_do_not_come_ends(served, begun, monkeypatch):
    monkeypatch.setattr(connection, "SECONDS", 0.1)
    with sent(served, begun) as it, suppress(ConnectionResetError):
        assert it.recv(1) == b""


def test_messages_in_json_are_parsed_beside_the_thread_of_all_connections():
    async def run():
        gateway, gone_on = Gateway("unix:/nowhere", MIB, None), threading.Event()
        async with gateway, asyncio.timeout(60):
            waiting = asyncio.create_task(gateway.beside(gone_on.wait, 50))
            await asyncio.sleep(0)
            gone_on.set()
            return await waiting

    assert asyncio.run(run())


def test_an_answer_too_large_for_json_says_what_to_do(served):
    text = json_format.MessageToJson(convolution_pb2.ConvolveRequest.FromString(answer_of(20 * MIB)))
    code, _, body = http_call(served, CONVOLVE, text, content_type="application/json")
    assert (code, json.loads(body)["code"]) == (429, "resource_exhausted")
    assert "application/proto" in json.loads(body)["message"]
