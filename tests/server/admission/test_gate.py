"""The gate and the interceptor: which calls are admitted, wait or are refused, and that all leave."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from groupconv.errors import ResourceExhaustedError, UnavailableError
from groupconv_server.admission.gate import Gate
from groupconv_server.admission.interceptor import Interceptor
from groupconv_server.telemetry.requests import Requests
from groupconv_server.telemetry.traces import Traces
from waiting import until

RUNNING, WAITING, BYTES = 2, 3, 1000


class Gated:
    """A server with a method of each kind that waits for `release`, behind the interceptor."""

    def __init__(self):
        self.gate = Gate(RUNNING, WAITING, BYTES)
        self.running, self.release = threading.Semaphore(0), threading.Event()

    def wait(self, request, context):
        self.running.release()
        assert self.release.wait(30)
        return request

    def drain(self, requests, context):
        self.running.release()
        assert self.release.wait(30)
        return b"".join(requests)

    def each(self, requests, context):
        yield from requests

    def started(self, count=1):
        for _ in range(count):
            assert self.running.acquire(timeout=30)


@pytest.fixture
def gated():
    it = Gated()
    server = grpc.server(ThreadPoolExecutor(RUNNING), interceptors=[Interceptor(it.gate, Requests((1.0,)), Traces())])
    methods = {
        "Wait": grpc.unary_unary_rpc_method_handler(it.wait),
        "Drain": grpc.stream_unary_rpc_method_handler(it.drain),
        "Each": grpc.stream_stream_rpc_method_handler(it.each),
        "Many": grpc.unary_stream_rpc_method_handler(lambda request, _: iter([request] * 3)),
    }
    for service in ("some.Service", "grpc.health.v1.Health"):
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    it.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{it.port}", options=[("grpc.enable_retries", 0)]) as it.channel:
        it.call = it.channel.unary_unary("/some.Service/Wait")
        yield it
    it.release.set()
    server.stop(None).wait()


def retry_of(error: grpc.RpcError) -> float:
    """Seconds of the google.rpc.RetryInfo."""
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(error).details)
    return retry.retry_delay.ToTimedelta().total_seconds()


def test_every_kind_of_method_answers(gated):
    gated.release.set()
    assert gated.call(b"a", timeout=30) == b"a"
    assert gated.channel.stream_unary("/some.Service/Drain")(iter([b"a", b"b"]), timeout=30) == b"ab"
    assert list(gated.channel.stream_stream("/some.Service/Each")(iter([b"a", b"b"]), timeout=30)) == [b"a", b"b"]
    assert list(gated.channel.unary_stream("/some.Service/Many")(b"a", timeout=30)) == [b"a"] * 3
    with pytest.raises(grpc.RpcError) as unknown:
        gated.channel.unary_unary("/some.Service/None")(b"a", timeout=30)
    assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert gated.gate.close(30)
    assert (gated.gate.inside, gated.gate.nbytes) == (0, 0)


def test_a_call_without_a_message_is_refused(gated):
    with pytest.raises(grpc.RpcError) as refused:
        gated.channel.stream_unary("/some.Service/Wait")(iter([]), timeout=30)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "message: expected one request message, got 'none'"


def test_closing_waits_for_those_inside_and_refuses_others(gated):
    inside = gated.call.future(b"first", timeout=30)
    gated.started()
    assert not gated.gate.close(0.01)
    with pytest.raises(grpc.RpcError) as refused:
        gated.call(b"second", timeout=30)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "stopping" in refused.value.details()
    gated.release.set()
    assert gated.channel.unary_unary("/grpc.health.v1.Health/Wait")(b"health", timeout=30) == b"health"
    assert inside.result() == b"first"
    assert gated.gate.close(30)


def test_a_cancelled_request_leaves(gated):
    inside = gated.call.future(b"x", timeout=30)
    gated.started()
    inside.cancel()
    assert gated.gate.close(30)


def test_more_than_run_and_wait_are_refused_at_once_with_the_time_to_wait(gated):
    inside = [gated.call.future(b"x", timeout=30) for _ in range(RUNNING)]
    gated.started(RUNNING)
    inside += [gated.call.future(b"x", timeout=30) for _ in range(WAITING)]
    until(lambda: gated.gate.inside == RUNNING + WAITING)
    with pytest.raises(grpc.RpcError) as refused:
        gated.call(b"x", timeout=30)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details().startswith("the server is busy: 2 requests run and 3 wait")
    assert 0 < retry_of(refused.value) <= 30
    # health answers all the same, whatever waits
    assert list(gated.channel.unary_stream("/grpc.health.v1.Health/Many")(b"a", timeout=30)) == [b"a"] * 3
    gated.release.set()
    assert [call.result() for call in inside] == [b"x"] * (RUNNING + WAITING)
    assert gated.call(b"x", timeout=30) == b"x"


def test_those_who_go_while_they_wait_make_room(gated):
    inside = [gated.call.future(b"x", timeout=30) for _ in range(RUNNING)]
    gated.started(RUNNING)
    for _ in range(5):
        with pytest.raises(grpc.RpcError) as late:
            gated.call(b"x", timeout=0.05)
        assert late.value.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    gated.release.set()
    assert all(call.result() == b"x" for call in inside)
    assert gated.gate.close(30)
    assert (gated.gate.inside, gated.gate.nbytes) == (0, 0)


def test_messages_are_bounded_together_but_one_alone_never_is(gated):
    first = gated.call.future(bytes(2 * BYTES), timeout=30)
    gated.started()
    with pytest.raises(grpc.RpcError) as refused:
        gated.call(b"x", timeout=30)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "requests hold" in refused.value.details()
    assert 0 < retry_of(refused.value) <= 30
    gated.release.set()
    assert first.result() == bytes(2 * BYTES)
    assert gated.gate.close(30)
    assert gated.gate.nbytes == 0


def test_a_gate_by_itself_counts_whatever_happens():
    gate = Gate(1, 0, 100)
    ticket = gate.enter()
    ticket.hold(60)
    with pytest.raises(ResourceExhaustedError):
        ticket.hold(60)
    with pytest.raises(ResourceExhaustedError):
        gate.enter()
    ticket.leave()
    ticket.leave()
    ticket.hold(60)  # too late to count
    assert (gate.inside, gate.nbytes) == (0, 0)
    assert gate.close(0)
    with pytest.raises(UnavailableError):
        gate.enter()
