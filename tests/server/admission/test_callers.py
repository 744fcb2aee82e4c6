"""Callers that are silent, many, large or gone: they cost others nothing, and the server no more than it says."""

import hashlib
import statistics
import threading
import time
from contextlib import ExitStack

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

import groupconv
from groupconv import ConvSpec, Step
from groupconv.wire.requests import convolve_request
from groupconv_server.admission import gate, health
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.inference.v2 import infer_pb2
from groupconv_server.server import Server
from groupconv_server.telemetry import audit
from groupconv_server.telemetry.request import Request
from groupconv_server.telemetry.requests import Requests
from groupconv_server.telemetry.traces import Traces
from waiting import until

CONVOLVE = "/groupconv.v1.ConvolutionService/Convolve"
INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
STREAMS = (
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    INFER,
    "/groupconv.v1.LayerService/LoadLayer",
    "/groupconv.v1.StreamService/ConvolveStream",
    CONVOLVE,
)
X, W = np.ones((1, 1, 9), np.float32), np.ones((1, 1, 3), np.float32)


@pytest.fixture
def silence():
    """Requests that never come."""
    over = threading.Event()

    def nothing():
        over.wait(120)
        yield from ()

    yield nothing
    over.set()


def answered(client: groupconv.Client) -> bool:
    try:
        return client.conv1d(X, W).tolist() == [[[3.0] * 7]]
    except groupconv.errors.ResourceExhaustedError:
        return False


def config(**fields) -> Config:
    return Config(port=0, executor="local", workers=1, threads=1, **fields)


def test_silent_calls_of_every_kind_are_ended_and_hold_nobody_up(silence):
    """A server for each kind, all at once: most of the time passes in waiting."""
    limits = Limits(stream_idle_seconds=8.0)
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(config(concurrency=4, queue=12, limits=limits))) for _ in STREAMS]
        clients = [stack.enter_context(groupconv.connect(server.address, timeout=60)) for server in servers]
        kinds = []
        for server, method in zip(servers, STREAMS, strict=True):
            channel = stack.enter_context(grpc.insecure_channel(server.address))
            kinds.append([channel.stream_stream(method)(silence()) for _ in range(16)])  # as many as may be inside
        for server, client, calls in zip(servers, clients, kinds, strict=True):
            until(lambda server=server: server._gate.inside >= 16)
            until(lambda client=client: answered(client))  # once one of them was silent for a moment, it makes room
            assert not all(call.done() for call in calls)
        until(lambda: all(call.done() for calls in kinds for call in calls))
        until(lambda: all(server._gate.inside == 0 for server in servers))


def test_health_answers_while_callers_are_silent(silence):
    with Server(config()) as server, grpc.insecure_channel(server.address) as channel:
        check = "/grpc.health.v1.Health/Check"
        silent = [channel.stream_unary(check).future(silence()) for _ in range(300)]
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == 1
        until(lambda: all(call.done() for call in silent), seconds=60)


def test_health_knows_the_names_that_exist_and_reads_nothing_large():
    with Server(config()) as server, grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
        (only,) = stub.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert only.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        with pytest.raises(grpc.RpcError) as large:
            stub.Check(health_pb2.HealthCheckRequest(service="x" * 5000))
        assert large.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "4096" in large.value.details()


def test_watchers_are_bounded_and_forgotten():
    with Server(config()) as server:
        channels = [grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(9)]
        watches = [
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            for channel in channels
            for _ in range(8)
        ]
        codes = []
        for watch in watches:
            try:
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            except grpc.RpcError as error:
                codes.append(error.code())
        assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 8
        for channel in channels:
            channel.close()
        until(lambda: not server.health.servicer._watchers)


def test_a_message_to_health_without_a_token_is_not_read(tmp_path, silence):
    """gRPC would take it into memory, however large: so the answer does not wait for one."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[alice]\nsha256 = "{hashlib.sha256(b"a" * 40).hexdigest()}"\n')
    with Server(config(tokens=tokens)) as server, grpc.insecure_channel(server.address) as channel:
        check = channel.stream_unary("/grpc.health.v1.Health/Check").future(silence(), timeout=60)
        answer = health_pb2.HealthCheckResponse.FromString(check.result())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_few_watches_without_a_token_stay_open(tmp_path):
    """gRPC holds what it has received of a message that is not read, for as long as the call is open."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[alice]\nsha256 = "{hashlib.sha256(b"a" * 40).hexdigest()}"\n')
    with Server(config(tokens=tokens)) as server:
        channels = [grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(3)]
        watches = []
        for i in range(health.UNREAD + 4):
            watch = health_pb2_grpc.HealthStub(channels[i % 3]).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            watches.append(watch)
        assert [_code_at_end(watch) for watch in watches[:4]] == [grpc.StatusCode.CANCELLED] * 4
        assert all(watch.is_active() for watch in watches[4:])
        for channel in channels:
            channel.close()
        until(lambda: not server._interceptor._health._unread)


def _code_at_end(watch) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as ended:
        next(watch)
    return ended.value.code()


def server_bytes() -> int:
    return psutil.Process().memory_info().rss


def test_a_caller_with_many_requests_does_not_delay_another(tmp_path):
    """A turn each: the second caller waits for about one request of the first one, not for all that are queued."""
    names, secrets = ("many", "few"), ("m" * 40, "f" * 40)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        "".join(
            f'[{name}]\nsha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"\n'
            for name, secret in zip(names, secrets, strict=True)
        )
    )
    x, w = np.ones((1, 8, 64, 64), np.float32), np.ones((8, 8, 5, 5), np.float32)
    with Server(config(tokens=tokens, concurrency=2, queue=256)) as server:

        def client(secret: str) -> groupconv.Client:
            return groupconv.connect(server.address, token=secret, timeout=120)

        def times(one: groupconv.Client, count: int) -> list[float]:
            found = []
            for _ in range(count):
                start = time.perf_counter()
                one.conv2d(x, w)
                found.append(time.perf_counter() - start)
            return found

        with client(secrets[1]) as few, client(secrets[0]) as many:
            times(few, 5)
            alone = statistics.median(times(few, 20))
            over = threading.Event()

            def flood() -> None:
                while not over.is_set():
                    many.conv2d(x, w)

            threads = [threading.Thread(target=flood) for _ in range(60)]
            for thread in threads:
                thread.start()
            until(lambda: server._pool.waiting > 20, seconds=60)
            beside = statistics.median(times(few, 20))
            over.set()
            for thread in threads:
                thread.join()
    assert beside < 20 * alone  # 60 requests before each of its own would be more than 50 times


def test_an_answer_is_counted_before_it_is_made_and_until_it_is_read():
    """Requests of 50 bytes with answers of 8 MiB that nobody reads: the budget of 40 MiB holds one or two, no more."""
    budget, pad = 40 << 20, (8 << 20) // 4
    with Server(config(queue_bytes=budget)) as server:
        spec = ConvSpec(padding=((pad, 0),))
        step = Step(np.ones((1, 1, 1), np.float32), None, spec)
        request = convolve_request(np.ones((1, 1, 2), np.float32), [step], report=False)
        channels = [grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(8)]
        before = server_bytes()
        calls = [channel.unary_stream(CONVOLVE)(request, timeout=60) for channel in channels]
        until(lambda: sum(call.done() for call in calls) >= 6)
        assert server._gate.nbytes <= budget
        assert server_bytes() - before < budget + (64 << 20)
        refused = [call for call in calls if call.done()]
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        for channel in channels:
            channel.close()
        until(lambda: server._gate.nbytes == 0)


@pytest.mark.parametrize("method", [CONVOLVE, INFER], ids=["unary", "stream"])
def test_answers_that_nobody_reads_make_room_for_others(method, monkeypatch):
    """A request of 50 bytes, without a deadline, whose answer fills the budget."""
    monkeypatch.setattr(gate, "READ_SECONDS", 600.0)
    monkeypatch.setattr(gate, "READ_RATE", 2**30)
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.http2.lookahead_bytes", 65535),
        ("grpc.http2.bdp_probe", 0),
    ]
    spec = ConvSpec(padding=(((8 << 20) // 4, 0),))
    kernel, tiny = np.ones((1, 1, 1), np.float32), np.ones((1, 1, 2), np.float32)
    with (
        Server(config(queue_bytes=28 << 20)) as server,
        grpc.insecure_channel(server.address, options) as channel,
        groupconv.connect(server.address, timeout=60) as client,
    ):
        client.load_layer("wide", kernel, spec=spec)
        if method == CONVOLVE:
            call = channel.unary_stream(method)(convolve_request(tiny, [Step(kernel, None, spec)], report=False))
        else:
            request = infer_pb2.ModelInferRequest(model_name="wide", raw_input_contents=[tiny.tobytes()])
            request.inputs.add(name="x", datatype="FP32", shape=tiny.shape)
            call = channel.unary_stream(method)(request.SerializeToString())
        x = np.ones((1, 1, 2**20), np.float32)
        until(lambda: server._gate.unread)

        def served() -> bool:
            try:
                return client.conv1d(x, W).shape == (1, 1, 2**20 - 2)
            except groupconv.errors.ResourceExhaustedError:
                return False

        assert not served()
        monkeypatch.setattr(gate, "READ_SECONDS", 0.1)
        until(served)
        with pytest.raises(grpc.RpcError) as ended:
            list(call)
        assert ended.value.code() == grpc.StatusCode.CANCELLED


def test_a_request_that_no_budget_could_hold_says_so():
    with Server(config(queue_bytes=16 << 20)) as server, groupconv.connect(server.address, timeout=60) as client:
        with pytest.raises(groupconv.errors.ResourceExhaustedError, match="--queue-mib"):
            client.run(np.ones((1, 1, 2), np.float32), [Step(W[:, :, :1], None, ConvSpec(padding=((8 << 20, 0),)))])
        assert client.conv1d(X, W).tolist() == [[[3.0] * 7]]


def test_what_a_chain_holds_between_its_steps_is_counted():
    wide = Step(np.ones((64, 1, 1), np.float32), None, ConvSpec())
    back = Step(np.ones((1, 64, 1), np.float32), None, ConvSpec())
    x = np.ones((1, 1, 2**17), np.float32)  # 0.5 MiB in and out, 32 MiB between
    with (
        Server(config(queue_bytes=16 << 20)) as server,
        groupconv.connect(server.address, timeout=60) as client,
        pytest.raises(groupconv.errors.ResourceExhaustedError, match="--queue-mib"),
    ):
        client.run(x, [wide, back])


def counted(server: Server, name: str) -> dict[str, float]:
    """Values of a metric of Convolve, by status."""
    samples = [s for family in server.metrics.registry.collect() for s in family.samples]
    return {
        s.labels.get("code", ""): s.value
        for s in samples
        if s.name == name and s.labels["method"] == CONVOLVE[1:] and s.value
    }


def late_requests_counted() -> dict[str, float]:
    """How a server counts a request that is answered and ten whose deadline passes while they wait for a thread."""
    with Server(config(concurrency=1, queue=64)) as server:
        run, go = server.executor.run, threading.Event()

        def held(*args, **keywords):
            assert go.wait(60)
            return run(*args, **keywords)

        server.executor.run = held
        with grpc.insecure_channel(server.address) as channel:
            message = convolve_request(X, [Step(W)])
            first = channel.unary_unary(CONVOLVE).future(message)
            until(lambda: counted(server, "groupconv_requests_in_flight") == {"": 1})
            late = [channel.unary_unary(CONVOLVE).future(message, timeout=0.3) for _ in range(10)]
            assert {call.code() for call in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
            go.set()
            assert first.result(60)
            until(lambda: sum(counted(server, "groupconv_requests_total").values()) == 11, seconds=30)
            return counted(server, "groupconv_requests_total")


def test_statuses_are_counted_as_callers_see_them():
    """All ten end as DEADLINE_EXCEEDED on both sides; a busy machine has further attempts.

    There a client may cancel a message that came late before its deadline is over in the server.
    """
    for _ in range(6):
        found = late_requests_counted()
        assert found.pop("OK") == 1
        assert found.keys() <= {"DEADLINE_EXCEEDED", "CANCELLED"}
        if found == {"DEADLINE_EXCEEDED": 10}:
            return
    pytest.fail(f"ten deadlines were counted otherwise in each attempt: {found}")


def test_refusals_are_summed_up_in_the_audit(caplog):
    caplog.set_level("INFO", "groupconv.audit")
    with Server(config()) as server, grpc.insecure_channel(server.address) as channel:
        calls = [channel.unary_unary(CONVOLVE).future(b"\xff") for _ in range(300)]
        assert {call.code() for call in calls} == {grpc.StatusCode.INVALID_ARGUMENT}
    lines = [r for r in caplog.records if r.name == "groupconv.audit" and r.code == "INVALID_ARGUMENT"]
    written = [r for r in lines if hasattr(r, "request_id")]
    counted = sum(r.count for r in lines if hasattr(r, "count"))
    assert len(written) + counted == 300
    assert counted > 0


def test_a_destructor_takes_no_lock():
    """A garbage collection may end a request that nobody worked on in a thread that holds any lock."""
    families = Requests((1.0,))
    series = families.of("a/B")
    requests = [Request("/a/B", (), series, Traces())]

    def collected() -> None:
        with families._lock, families.ended._lock, audit._tally._lock:
            requests.clear()

    thread = threading.Thread(target=collected, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    registry = CollectorRegistry()
    registry.register(families)
    labels = {"method": "a/B", "code": "UNREAD"}
    assert registry.get_sample_value("groupconv_requests_total", labels) == 1


def test_a_request_outside_of_a_server_reserves_nothing():
    assert gate.present.get() is None
    gate.reserve(2**60)  # inside of one it would be refused
