"""The gate counts who is inside, refuses when closed, and lets health through."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from groupconv_server.servicers.gate import Gate


@pytest.fixture
def gated():
    """A server with a method that waits for `release`, and its gate."""
    gate, running, release = Gate(), threading.Event(), threading.Event()

    def wait(request, context):
        running.set()
        assert release.wait(30)
        return request

    server = grpc.server(ThreadPoolExecutor(4), interceptors=[gate])
    for service in ("some.Service", "grpc.health.v1.Health"):
        handler = grpc.unary_unary_rpc_method_handler(wait)
        server.add_registered_method_handlers(service, {"Wait": handler})
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Wait": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_retries", 0)]) as channel:
        yield gate, channel, running, release
    server.stop(None).wait()


def test_closing_waits_for_those_inside_and_refuses_others(gated):
    gate, channel, running, release = gated
    inside = channel.unary_unary("/some.Service/Wait").future(b"first", timeout=30)
    assert running.wait(30)
    assert not gate.close(0.01)
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/some.Service/Wait")(b"second", timeout=30)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "stopping" in refused.value.details()
    release.set()
    assert channel.unary_unary("/grpc.health.v1.Health/Wait")(b"health", timeout=30) == b"health"
    assert inside.result() == b"first"
    assert gate.close(30)


def test_a_cancelled_request_leaves(gated):
    gate, channel, running, release = gated
    inside = channel.unary_unary("/some.Service/Wait").future(b"x", timeout=30)
    assert running.wait(30)
    inside.cancel()
    assert gate.close(30)
    release.set()
