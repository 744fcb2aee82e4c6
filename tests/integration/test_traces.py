"""One trace from the client's call to the shards: in process, through Ray, and by OTLP from `groupconv serve`."""

import json
import os
import queue
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

import groupconv

PROGRAM = Path(__file__).with_name("traced_program.py")
CONVOLVE = "groupconv.v1.ConvolutionService/Convolve"


class Spans:
    """The spans of a run of the program."""

    def __init__(self, executor: str) -> None:
        env = os.environ | {"PYTHONPATH": str(PROGRAM.parent.parent)}
        done = subprocess.run([sys.executable, PROGRAM, executor], capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        self.all = json.loads(done.stdout.splitlines()[-1])

    def root(self, name: str) -> dict:
        (found,) = (s for s in self.all if s["name"] == name and s["parent"] is None)
        return found

    def below(self, parent: dict, *path: str) -> list[dict]:
        """The children by name, or theirs along a path."""
        found = [parent]
        for name in path:
            ids = [p["id"] for p in found]
            found = [s for s in self.all if s["parent"] in ids and s["name"] == name]
        assert all(s["trace"] == parent["trace"] for s in found)
        return found


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def spans(request):
    return Spans(request.param)


@pytest.mark.parametrize("call", ["unary", "aio"])
def test_one_trace_shows_plan_split_shards_and_merge(spans, call):
    root = spans.root(call)
    (server,) = spans.below(root, f"/{CONVOLVE}", CONVOLVE)
    assert (server["kind"], server["attributes"]["rpc.grpc.status"]) == ("SERVER", "OK")
    (convolve,) = spans.below(server, "convolve")
    (plan,), (split,), (merge,) = (spans.below(convolve, name) for name in ("plan", "split", "merge"))
    shards = spans.below(convolve, "shard")
    assert len(shards) == split["attributes"]["shards"] >= 1
    assert plan["end"] <= split["start"] <= split["end"] <= min(s["start"] for s in shards)
    assert convolve["start"] <= plan["start"]
    assert merge["end"] <= convolve["end"] <= server["end"] <= root["end"]
    for shard in shards:
        (wait,), (compute,) = spans.below(shard, "queue"), spans.below(shard, "compute")
        assert compute["attributes"]["algorithm"] == "reference"
        assert shard["attributes"]["worker"]
        assert shard["start"] == wait["start"] <= wait["end"] == compute["start"] < compute["end"]


def test_a_layer_for_two_workers_has_two_shards_in_its_trace(spans):
    """It asks to be cut by groups, of which it has two; its shards are on both workers."""
    (convolve,) = spans.below(spans.root("unary"), f"/{CONVOLVE}", CONVOLVE, "convolve")
    assert len({s["attributes"]["worker"] for s in spans.below(convolve, "shard")}) == 2


def test_a_stream_s_bands_are_in_its_trace(spans):
    method = "groupconv.v1.StreamService/ConvolveStream"
    bands = spans.below(spans.root("stream"), f"/{method}", method, "convolve")
    assert len(bands) == 2
    assert len(spans.below(spans.root("stream"), f"/{method}", method, "convolve", "merge")) == 2


def test_a_refusal_is_an_error_in_its_trace(spans):
    method = "groupconv.v1.LayerService/GetLayer"
    (server,) = spans.below(spans.root("refused"), f"/{method}", method)
    assert (server["status"], server["attributes"]["rpc.grpc.status"]) == ("ERROR", "NOT_FOUND")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans by OTLP."""

    def __init__(self) -> None:
        self.spans: queue.Queue = queue.Queue()

    def Export(self, request, context):  # noqa: N802 - the RPC's name
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.put((resource.resource, span))
        return trace_service_pb2.ExportTraceServiceResponse()


def test_serve_sends_spans_where_the_environment_says():
    collector, receiver = Collector(), grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)
    port = receiver.add_insecure_port("127.0.0.1:0")
    receiver.start()
    env = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--engine", "reference"]
    try:
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as server:
            try:
                address = server.stdout.readline().split()[-1]
                with grpc.insecure_channel(address) as channel:
                    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
                    ask = channel.unary_unary("/groupconv.v1.ClusterService/GetCluster")
                    ask(b"", metadata=[("traceparent", parent)], timeout=30)
            finally:
                server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0
        resource, span = collector.spans.get(timeout=30)  # flushed at the end, not before
    finally:
        receiver.stop(None)
    assert (span.trace_id, span.parent_span_id) == (b"\xab" * 16, b"\xcd" * 8)
    assert span.name == "groupconv.v1.ClusterService/GetCluster"
    names = {a.key: a.value.string_value for a in resource.attributes}
    assert (names["service.name"], names["service.version"]) == ("groupconv", groupconv.__version__)
