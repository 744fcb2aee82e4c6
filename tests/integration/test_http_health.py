"""Health over HTTP, beside the metrics: what a probe without gRPC finds on a real server."""

import http.client

import pytest

from groupconv_server.config import Config
from groupconv_server.server import Server


@pytest.fixture(scope="module")
def served():
    config = Config(port=0, executor="local", workers=1, threads=1, engine="reference", metrics_port=0)
    with Server(config) as server:
        yield server


def asked(server, path, method="GET"):
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection(server.metrics_url.split("/")[2], timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_a_server_that_takes_requests_is_alive_and_ready(served):
    assert (asked(served, "/healthz")[0], asked(served, "/healthz")[2]) == (200, "ok\n")
    assert (asked(served, "/readyz")[0], asked(served, "/readyz")[2]) == (200, "SERVING\n")


def test_readiness_is_what_the_health_service_says():
    config = Config(port=0, executor="local", workers=1, threads=1, engine="reference", metrics_port=0)
    with Server(config) as server:
        assert asked(server, "/readyz")[0] == 200
        server.health.stop()  # the first thing that SIGTERM does
        status, _, text = asked(server, "/readyz")
        assert (status, text) == (503, "NOT_SERVING: it is stopping\n")
        assert asked(server, "/healthz")[0] == 200  # alive: it ends its requests


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_probe_may_ask_for_the_head_alone(served, path):
    whole, head = asked(served, path), asked(served, path, "HEAD")
    assert (head[0], head[2]) == (200, "")
    assert head[1]["Content-Length"] == whole[1]["Content-Length"] == str(len(whole[2]))


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 404), ("/readyz/", "GET", 404), ("/readyz", "POST", 405)]
)
def test_what_else_is_asked_is_refused_in_a_sentence(served, path, method, status):
    found, headers, text = asked(served, path, method)
    assert found == status
    assert text.startswith("expected ")
    assert (headers.get("Allow") == "GET, HEAD") is (status == 405)


def test_the_metrics_are_still_there(served):
    status, headers, text = asked(served, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert "groupconv_workers 1.0" in text
