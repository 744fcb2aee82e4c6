"""No token, no answer, health excepted; each token within its limits; sync and aio, unary and streams."""

import asyncio
import threading

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import ResourceExhaustedError, UnauthenticatedError
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import entry_text, new_token
from groupconv_server.admission.gate import Ticket
from groupconv_server.config import Config
from groupconv_server.server import Server

X, W = np.ones((1, 1, 8), np.float32), np.ones((1, 1, 2), np.float32)
ALICE, SLOW, HEAVY, ONE, NARROW = (new_token() for _ in range(5))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(
        entry_text("alice", ALICE, CallerLimits())
        + entry_text("slow", SLOW, CallerLimits(requests_per_second=0.001))
        + entry_text("heavy", HEAVY, CallerLimits(bytes_per_second=200_000))
        + entry_text("narrow", NARROW, CallerLimits(requests_per_second=0.001))
        + entry_text("one", ONE, CallerLimits(concurrent=1))
    )
    return path


@pytest.fixture(scope="module")
def server(file):
    config = Config(port=0, executor="local", workers=1, threads=1, engine="reference", tokens=file)
    with Server(config) as server:
        yield server


@pytest.fixture
def anonymous(server):
    with grpc.insecure_channel(server.address, options=[("grpc.enable_retries", 0)]) as channel:
        yield channel


def services(server):
    """Every method there is, as reflection tells who has a token: what is added later is tested too."""
    metadata = (("authorization", f"Bearer {ALICE}"),)
    with grpc.insecure_channel(server.address) as channel:
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        request = reflection_pb2.ServerReflectionRequest
        (listed,) = ask(iter([request(list_services="")]), timeout=20, metadata=metadata)
        for service in listed.list_services_response.service:
            question = iter([request(file_containing_symbol=service.name)])
            (answer,) = ask(question, timeout=20, metadata=metadata)
            for raw in answer.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(raw)
                for s in file.service:
                    if f"{file.package}.{s.name}" == service.name:
                        yield from ((f"/{service.name}/{m.name}", m) for m in s.method)


@pytest.mark.parametrize("metadata", [(), (("authorization", f"Bearer {new_token()}"),)])
def test_no_method_but_health_answers_without_a_token(server, anonymous, metadata):
    methods = dict(services(server))
    assert len(methods) > 12
    for path in [*methods, "/groupconv.v1.ConvolutionService/None"]:
        if path.startswith("/grpc.health."):
            continue
        m = methods.get(path)
        calls = [anonymous.unary_unary(path)]
        if m is not None and (m.client_streaming or m.server_streaming):
            calls = [lambda _, path=path, **kw: list(anonymous.stream_stream(path)(iter([b""]), **kw))]
        for call in calls:
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=20, metadata=metadata)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, path


def test_health_answers_without_a_token(anonymous):
    stub = health_pb2_grpc.HealthStub(anonymous)
    serving = health_pb2.HealthCheckResponse.SERVING
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status == serving
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(watch).status == serving
    watch.cancel()


def test_both_clients_bring_their_token_with_every_kind_of_call(server, monkeypatch):
    def use(client):
        assert client.conv1d(X, W).tolist() == [[[2.0] * 7]]
        assert client.stream_convolve(X, [Step(W)]).tolist() == [[[2.0] * 7]]
        layer = client.load_layer("edge", W)
        assert layer(X).tolist() == [[[2.0] * 7]]
        layer.unload()
        assert client.status().requests
        client.plan(X.shape, W.shape, ConvSpec())

    with groupconv.connect(server.address, token=ALICE, timeout=20) as client:
        use(client)
    monkeypatch.setenv("GROUPCONV_TOKEN", ALICE)
    with groupconv.connect(server.address, timeout=20) as client:
        use(client)

    async def use_aio():
        async with groupconv.aio.connect(server.address, timeout=20) as client:
            assert (await client.conv1d(X, W)).tolist() == [[[2.0] * 7]]
            assert (await client.stream_convolve(X, [Step(W)])).tolist() == [[[2.0] * 7]]
            layer = await client.load_layer("edge", W)
            assert (await layer(X)).tolist() == [[[2.0] * 7]]
            await layer.unload()
            assert (await client.status()).requests

    asyncio.run(use_aio())


def test_without_one_every_kind_of_call_of_both_clients_is_refused(server):
    with groupconv.connect(server.address, timeout=20) as client:
        for call in (
            lambda: client.conv1d(X, W),
            lambda: client.stream_convolve(X, [Step(W)]),
            lambda: client.load_layer("edge", np.ones((64, 64, 99), np.float32)),
            client.status,
        ):
            with pytest.raises(UnauthenticatedError, match="a token is needed"):
                call()

    async def use():
        async with groupconv.aio.connect(server.address, timeout=20, token=new_token()) as client:
            for call in (
                lambda: client.conv1d(X, W),
                lambda: client.stream_convolve(X, [Step(W)]),
                lambda: client.load_layer("edge", np.ones((64, 64, 99), np.float32)),
                client.status,
            ):
                with pytest.raises(UnauthenticatedError, match="not known"):
                    await call()

    asyncio.run(use())


def test_every_refusal_is_in_the_audit_with_the_name_of_the_token_and_never_the_token(server, anonymous, caplog):
    wrong = new_token()
    ask = reflection_pb2_grpc.ServerReflectionStub(anonymous).ServerReflectionInfo
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError):
        list(ask(iter([question]), timeout=20, metadata=(("authorization", f"Bearer {wrong}"),)))
    with groupconv.connect(server.address, token=NARROW, timeout=20) as client:
        client.status()
        with pytest.raises(ResourceExhaustedError):
            client.status()
    lines = [vars(r) for r in caplog.records if r.name == "groupconv.audit" and hasattr(r, "token")]
    assert ("UNAUTHENTICATED", "") in {(line["code"], line["token"]) for line in lines}
    assert ("RESOURCE_EXHAUSTED", "narrow") in {(line["code"], line["token"]) for line in lines}
    assert wrong not in str(lines)
    assert NARROW not in str(lines)


def test_a_request_over_the_rate_is_told_when_to_come_again(server):
    with groupconv.connect(server.address, token=SLOW, timeout=20) as client:
        client.status()
        for call in (client.status, lambda: client.stream_convolve(X, [Step(W)]), lambda: client.conv1d(X, W)):
            with pytest.raises(
                ResourceExhaustedError, match=r"token slow: over its limit of 0\.001 requests"
            ) as refused:
                call()
            assert 900 < refused.value.retry_after <= 1000

    async def use():
        async with groupconv.aio.connect(server.address, token=SLOW, timeout=20) as client:
            await client.status()

    with pytest.raises(ResourceExhaustedError) as refused:
        asyncio.run(use())
    assert 900 < refused.value.retry_after <= 1000


def test_bytes_are_paid_for_and_a_stream_under_way_is_slowed(server, monkeypatch):
    waits = []
    wait = Ticket.ended_within

    def noted(self, seconds):
        waits.append(seconds)
        return wait(self, seconds)

    monkeypatch.setattr(Ticket, "ended_within", noted)
    x = np.ones((1, 1, 120_000), np.float32)
    with groupconv.connect(server.address, token=HEAVY, timeout=60) as client:
        client.stream_convolve(x, [Step(W)], band_rows=30_000)
        assert max(waits) > 0.5  # 480,000 bytes each way at 200,000 a second
        with pytest.raises(ResourceExhaustedError, match="bytes per second") as refused:
            client.status()
        assert 0 < refused.value.retry_after < 60


def test_one_at_a_time_means_streams_too(server):
    ended = threading.Event()

    def never():
        ended.wait()
        yield b""

    with (
        groupconv.connect(server.address, token=ONE, timeout=20) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        client.status()
        metadata = (("authorization", f"Bearer {ONE}"),)
        method = channel.stream_stream("/groupconv.v1.StreamService/ConvolveStream")
        streams = [method(never(), metadata=metadata)]

        def ask_for_ever():
            while True:
                client.status()
                if not streams[-1].is_active():  # it arrived while a status was inside, and was refused itself
                    streams.append(method(never(), metadata=metadata))

        with pytest.raises(ResourceExhaustedError, match="1 requests at a time"):  # when the stream has arrived
            ask_for_ever()
        streams[-1].cancel()
        ended.set()
        while True:  # until it has left
            try:
                client.status()
                break
            except ResourceExhaustedError:
                pass
