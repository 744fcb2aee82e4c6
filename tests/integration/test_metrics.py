"""What Prometheus finds: a real server, scraped over HTTP."""

import re
import threading
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import NotFoundError, UnavailableError
from groupconv.wire.requests import convolve_request
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server
from groupconv_server.telemetry.series import MAX_LAYERS, OTHER

DOC = Path(__file__).parents[2] / "docs" / "observability.md"
CONVOLVE = "groupconv.v1.ConvolutionService/Convolve"
X, W = np.ones((1, 4, 8, 8), np.float32), np.ones((8, 2, 3, 3), np.float32)
SPEC = ConvSpec(groups=2)


@pytest.fixture(scope="module")
def server():
    config = Config(port=0, workers=2, threads=1, engine="reference", metrics_port=0, limits=Limits(2**20))
    with Server(config) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with groupconv.connect(server.address, timeout=60) as client:
        yield client


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def scraped(server) -> dict[tuple[str, frozenset], float]:
    """Every sample by its name and labels."""
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def change(server, act):
    """How much each sample has grown since before what `act` did, by a scrape at each question."""
    before = scraped(server)
    act()
    return lambda name, **labels: sum(
        value - before.get((n, found), 0)
        for (n, found), value in scraped(server).items()
        if n == name and labels.items() <= dict(found).items()
    )


def test_a_request_is_counted_timed_and_weighed(server, client):
    grew = change(server, lambda: client.conv2d(X, W, groups=2))
    assert grew("groupconv_requests_total", method=CONVOLVE, code="OK") == 1
    assert grew("groupconv_request_duration_seconds_count", method=CONVOLVE) == 1
    assert grew("groupconv_request_duration_seconds_sum", method=CONVOLVE) > 0
    assert grew("groupconv_request_bytes_total", method=CONVOLVE) > X.nbytes + W.nbytes
    assert grew("groupconv_response_bytes_total", method=CONVOLVE) > 8 * 36 * 4
    assert grew("groupconv_phase_duration_seconds_count", phase="execute") == 1
    shards = grew("groupconv_shard_compute_seconds_count", algorithm="reference")
    assert shards >= 1
    assert shards == grew("groupconv_shard_wait_seconds_count") == grew("groupconv_worker_shards_total")
    assert grew("groupconv_requests_refused_total") == 0
    assert scraped(server)["groupconv_requests_in_flight", frozenset({("method", CONVOLVE)})] == 0


def test_a_stream_is_counted_by_bands_and_bytes(server, client):
    x = np.ones((1, 4, 64, 8), np.float32)
    grew = change(server, lambda: client.stream_convolve(x, [groupconv.Step(W, None, SPEC)], band_rows=16))
    method = "groupconv.v1.StreamService/ConvolveStream"
    assert grew("groupconv_requests_total", method=method, code="OK") == 1
    assert grew("groupconv_stream_bands_total") == 4
    assert grew("groupconv_request_bytes_total", method=method) > x.nbytes


def test_who_waits_is_counted_and_weighed():
    config = Config(port=0, engine="reference", threads=1, workers=1, concurrency=1, metrics_port=0)
    ask = "/groupconv.v1.ClusterService/GetCluster"
    go = threading.Event()

    def waiting() -> float:
        return scraped(server)["groupconv_queue_requests", frozenset()]

    with Server(config) as server, grpc.insecure_channel(server.address) as channel:
        run = server.executor.run

        def held(*args, **keywords):
            assert go.wait(60)
            return run(*args, **keywords)

        server.executor.run = held  # the only thread is at work until `go`
        convolve = convolve_request(np.ones((1, 1, 4), np.float32), [Step(np.ones((1, 1, 2), np.float32))])
        running = channel.unary_unary(f"/{CONVOLVE}").future(convolve)
        while not scraped(server).get(("groupconv_requests_in_flight", frozenset({("method", CONVOLVE)}))):
            pass
        assert waiting() == 0
        queued = channel.unary_unary(ask).future(b"")
        while waiting() == 0:
            pass
        assert waiting() == 1
        go.set()
        assert queued.result(timeout=30) is not None
        assert running.result(timeout=30) is not None
        grown = scraped(server)
    assert grown["groupconv_queue_requests", frozenset()] == 0
    assert grown["groupconv_request_receive_seconds_sum", frozenset({("method", ask[1:])})] > 0


@pytest.mark.parametrize(
    ("method", "message", "label", "code"),
    [
        (f"/{CONVOLVE}", b"\xff\xff", CONVOLVE, "INVALID_ARGUMENT"),
        (f"/{CONVOLVE}", b"", CONVOLVE, "INVALID_ARGUMENT"),
        (f"/{CONVOLVE}", bytes(2**20 + 1), CONVOLVE, "RESOURCE_EXHAUSTED"),
        ("/groupconv.v1.LayerService/GetLayer", b"\x0a\x01a", "groupconv.v1.LayerService/GetLayer", "NOT_FOUND"),
        ("/groupconv.v1.LayerService/LoadLayer", b"\xff", "groupconv.v1.LayerService/LoadLayer", "INVALID_ARGUMENT"),
        ("/made.up/Name", b"", "unknown", "UNIMPLEMENTED"),
    ],
)
def test_a_refusal_is_counted_by_its_code(server, channel, method, message, label, code):
    def ask():
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(method)(message, timeout=30)

    grew = change(server, ask)
    while not grew("groupconv_requests_refused_total", method=label):
        pass  # gRPC tells the caller of a message over the limit before the request's thread knows
    assert grew("groupconv_requests_refused_total", method=label, code=code) == 1
    assert grew("groupconv_requests_total", method=label, code=code) == 1


def test_a_layer_has_series_until_it_is_unloaded(server, client):
    layer = client.load_layer("towers/left", W, None, SPEC)
    grew = change(server, lambda: layer(X))
    assert grew("groupconv_layer_requests_total", layer="towers/left", outcome="ok") == 1
    assert grew("groupconv_layer_duration_seconds_count", layer="towers/left") == 1
    assert scraped(server)["groupconv_layer_bytes", frozenset({("layer", "towers/left")})] == W.nbytes
    layer.unload()
    assert not [key for key in scraped(server) if ("layer", "towers/left") in key[1]]


def test_names_of_layers_and_methods_cannot_fill_the_page(server, client, channel):
    layers = [client.load_layer(f"many/{i}", W, None, SPEC) for i in range(MAX_LAYERS + 20)]
    for layer in layers:
        layer(X)
    for i in range(50):
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/made.up/Name{i}")(b"", timeout=30)
        with pytest.raises(NotFoundError):
            client.get_layer(f"none/{i}")
    after = scraped(server)
    named = {dict(labels)["layer"] for _, labels in after if "layer" in dict(labels)}
    assert len(named) == MAX_LAYERS + 1
    assert after["groupconv_layer_requests_total", frozenset({("layer", OTHER), ("outcome", "ok")})] == 20
    for layer in layers:
        layer.unload()
    methods = {dict(labels)["method"] for _, labels in after if "method" in dict(labels)}
    assert not [method for method in methods if "made.up" in method]
    left = {dict(labels)["layer"] for _, labels in scraped(server) if "layer" in dict(labels)}
    assert left <= {OTHER}


def test_the_docs_name_every_metric(server, client):
    """What is exported and what the table says are the same."""
    client.conv2d(X, W, groups=2)
    with urllib.request.urlopen(server.metrics_url) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    exported = {f.name + "_total" * (f.type == "counter") for f in families if f.name.startswith("groupconv_")}
    documented = set(re.findall(r"^\| `(groupconv_\w+)", DOC.read_text(), re.MULTILINE))
    assert exported == documented


def test_a_taken_port_is_said(server):
    from groupconv_server.telemetry.page import Page

    port = int(server.metrics_url.split(":")[2].split("/")[0])
    with pytest.raises(UnavailableError, match=f"cannot show metrics on 127.0.0.1:{port}"):
        Page("127.0.0.1", port, server.metrics.registry, server.health.state)
