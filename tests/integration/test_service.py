"""A real server on loopback, driven by the real client."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import given, settings

import groupconv
from groupconv import ConvSpec, Step
from groupconv.arguments import prepare
from groupconv.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError
from groupconv.wire.requests import convolve_request
from groupconv_server.config import Config
from groupconv_server.server import Server
from oracle import check
from strategies import FLOATS, Case, cases
from waiting import until

RNG = np.random.default_rng(0)
PAIRS = tuple((f, f) for f in FLOATS) + (
    ("uint8", "int8"),
    ("int8", "int32"),
    ("uint8", "float32"),
    ("int32", "float64"),
)


@settings(max_examples=120)
@given(case=cases(dtypes=PAIRS))
def test_every_variant_arrives_as_the_reference_says(client, case: Case):
    result = client.run(case.x, [Step(case.weight, case.bias, case.spec)])
    check(result.output, case)
    (step,) = result.report.plan.steps
    assert step.output_shape == result.output.shape
    assert {s.worker for s in result.report.steps[0]} <= {"local-0", "local-1"}
    assert {"parse", "plan", "execute"} <= set(result.report.phases)


def f32(*shape):
    """Whole numbers: their sums have the same bits in any order, so under any plan."""
    return RNG.integers(-9, 10, shape).astype(np.float32)


def general(client, x, w, bias=None, **spec):
    return client.convolve(x, w, bias, ConvSpec(**spec))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convn_is_the_general_form(client, rank):
    x, w, b = f32(2, 4, *[7] * rank), f32(6, 2, *[3] * rank), f32(6)
    options = {"stride": 2, "padding": 1, "groups": 2, "activation": "relu"}
    y = getattr(client, f"conv{rank}d")(x, w, b, **options)
    np.testing.assert_array_equal(y, general(client, x, w, b, **options))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transposen_is_the_general_form(client, rank):
    x, w, b = f32(2, 4, *[5] * rank), f32(4, 3, *[3] * rank), f32(6)
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}
    y = getattr(client, f"conv_transpose{rank}d")(x, w, b, **options)
    np.testing.assert_array_equal(y, general(client, x, w, b, transposed=True, **options))


def test_the_named_variants(client):
    x = f32(1, 4, 8, 8)
    mix = f32(6, 4)
    np.testing.assert_array_equal(client.pointwise_conv2d(x, mix), client.conv2d(x, mix[:, :, None, None]))
    depthwise = f32(8, 1, 3, 3)
    y = client.depthwise_conv2d(x, depthwise, padding="same")
    np.testing.assert_array_equal(y, client.conv2d(x, depthwise, padding=1, groups=4))
    separable = client.depthwise_separable_conv2d(x, depthwise[:4], mix, padding=1, activation="silu")
    middle = client.conv2d(x, depthwise[:4], padding=1, groups=4)
    np.testing.assert_allclose(separable, client.pointwise_conv2d(middle, mix, activation="silu"), rtol=1e-6)
    full = np.outer([3, 4, 5], [1, 2, 3]).astype(np.float32)
    y = client.spatially_separable_conv2d(x, [3, 4, 5], [1, 2, 3], padding="same")
    whole = client.depthwise_conv2d(x, np.broadcast_to(full, (4, 1, 3, 3)), padding="same")
    np.testing.assert_allclose(y, whole, rtol=1e-4, atol=1e-3)


def test_answers_are_the_caller_s_own_or_land_in_out(client):
    x, w = f32(1, 2, 6, 6), f32(3, 2, 3, 3)
    y = client.conv2d(x, w)
    y += 1  # writable
    out = np.zeros((1, 3, 4, 4), np.float32)
    assert client.conv2d(x, w, out=out) is out
    np.testing.assert_array_equal(out + 1, y)
    with pytest.raises(InvalidArgumentError, match="out: expected shape"):
        client.conv2d(x, w, out=np.zeros((1, 3, 4, 5), np.float32))


def test_one_sample_without_a_batch_axis(client):
    x, w = f32(2, 6, 6), f32(3, 2, 3, 3)
    np.testing.assert_array_equal(client.conv2d(x, w), client.conv2d(x[None], w)[0])


def test_the_weight_s_rank_must_be_the_function_s(client):
    with pytest.raises(InvalidArgumentError, match="weight: expected 4 dimensions for 2-D"):
        client.conv2d(f32(1, 2, 6), f32(3, 2, 3))


def test_nan_and_infinity_are_computed(client):
    y = client.conv1d(np.array([[[1, np.nan, 2, np.inf, 3, 3]]], np.float32), [[[1.0, 1.0]]])
    np.testing.assert_array_equal(y[0, 0], np.array([np.nan, np.nan, np.inf, np.inf, 6], np.float32))


def test_a_plan_shows_its_shards_and_what_else_was_considered(client):
    plan = client.plan((1, 96, 27, 27), (256, 48, 5, 5), ConvSpec(padding=2, groups=2))
    (step,) = plan.steps
    assert set(plan.workers) <= {"local-0", "local-1"}
    assert sum(s.multiply_adds for s in step.shards) == 256 * 48 * 25 * 27 * 27
    assert step.alternatives
    text = str(plan)
    assert f"cut along {step.cut}: " in text
    assert f"{step.shards[0].multiply_adds:,}" in text
    assert "considered as well:" in text


def test_a_report_prints_predicted_against_measured(client):
    result = client.run(f32(2, 4, 8, 8), [Step(f32(4, 4, 3, 3))])
    text = str(result.report)
    assert "predicted" in text
    assert "phases: " in text
    assert result.report.plan.seconds > 0


def test_several_steps_are_planned_together(client):
    plan = client.plan_steps((2, 8, 16, 16), [(8, 1, 3, 3), (4, 8, 1, 1)], [ConvSpec(groups=8), ConvSpec()])
    assert [s.output_shape for s in plan.steps] == [(2, 8, 14, 14), (2, 4, 14, 14)]


def test_sums_are_taken_in_parts_only_where_allowed(client, server):
    x, w = f32(1, 8192, 2), f32(3, 8192, 1)
    strict = client.plan(x.shape, w.shape)
    assert not any(s.partial for s in strict.steps[0].shards)
    loose = client.run(x, [Step(w)], allow_reordering=True).output
    np.testing.assert_allclose(loose, client.run(x, [Step(w)]).output, rtol=1e-3, atol=1e-3)


def test_status_tells_what_the_server_consists_of(client, server):
    before = client.status()
    client.conv1d([[[1.0, 2.0]]], [[[1.0]]])
    after = client.status()
    assert after.version == groupconv.__version__
    assert after.executor == "local"
    assert [w.id for w in after.workers] == ["local-0", "local-1"]
    assert after.requests == before.requests + 1
    assert sum(w.shards for w in after.workers) == sum(w.shards for w in before.workers) + 1
    assert after.max_message_bytes == server.config.limits.message_bytes


def test_of_a_caller_who_goes_while_its_shard_waits_nothing_is_computed():
    array, steps, _ = prepare(f32(1, 2, 9), [Step(f32(2, 2, 3))])
    with Server(Config(port=0, executor="local", threads=1, engine="reference")) as server:
        (worker,) = server.executor._workers.values()
        shards = worker.shards
        with grpc.insecure_channel(server.address) as channel, worker.runtime.budget:  # the worker is busy
            call = channel.unary_unary("/groupconv.v1.ConvolutionService/Convolve")
            going = call.future(convolve_request(array, steps, allow_reordering=False, report=False))
            until(lambda: server.coordinator.running == 1)
            going.cancel()
            until(lambda: server._gate.inside == 0)
        until(lambda: server.coordinator.running == 0)
        assert worker.shards == shards


def test_the_caller_s_deadline_is_kept(client):
    x, w = f32(1, 64, 40, 40), f32(64, 64, 9, 9)
    with pytest.raises(DeadlineExceededError):
        client.conv2d(x, w, timeout=0.001)
    assert client.conv1d([[[1.0, 2.0]]], [[[1.0]]]).shape == (1, 1, 2)


def test_no_server_is_unavailable_after_retries():
    with groupconv.connect("127.0.0.1:1", timeout=20) as client, pytest.raises(UnavailableError):
        client.status()


def test_what_changes_nothing_is_asked_for_again():
    asked = Counter()

    class Away(grpc.GenericRpcHandler):
        def service(self, details):
            asked[details.method.rsplit("/")[-1]] += 1
            return grpc.unary_unary_rpc_method_handler(lambda _, at: at.abort(grpc.StatusCode.UNAVAILABLE, "away"))

    away = grpc.server(ThreadPoolExecutor(2), handlers=(Away(),))
    port = away.add_insecure_port("127.0.0.1:0")
    away.start()
    with groupconv.connect(f"127.0.0.1:{port}") as client:
        for ask in (lambda: client.get_layer("edge"), client.list_layers, lambda: client.unload_layer("edge")):
            with pytest.raises(UnavailableError, match="away"):
                ask()
    away.stop(None)
    assert asked == {"GetLayer": 5, "ListLayers": 5, "UnloadLayer": 1}


def test_a_token_never_leaves_this_machine_in_the_clear_unless_allowed(monkeypatch):
    with pytest.raises(InvalidArgumentError, match="token: expected TLS"):
        groupconv.connect("gpu-box:1", token="secret")
    for target, options in (("localhost:1", {}), ("gpu-box:1", {"tls": True}), ("gpu-box:1", {"token": ""})):
        groupconv.connect(target, **{"token": "secret"} | options).close()
    groupconv.connect("gpu-box:1", token="secret", allow_plaintext_token=True).close()
    monkeypatch.setenv("GROUPCONV_TOKEN", "secret")
    with pytest.raises(InvalidArgumentError, match="token: expected TLS"):
        groupconv.connect("gpu-box:1")
    with pytest.raises(InvalidArgumentError, match="token: expected ASCII"):
        groupconv.connect("localhost:1", token="two\nlines")


def test_health_and_reflection_are_on(server):
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "groupconv.v1.ConvolutionService", "groupconv.v1.ClusterService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        names = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {"groupconv.v1.ConvolutionService", "groupconv.v1.ClusterService", "grpc.health.v1.Health"} <= names


def test_many_threads_may_share_a_client(client):
    x, w = f32(2, 4, 9, 9), f32(4, 2, 3, 3)
    want = client.conv2d(x, w, groups=2)
    right = []

    def ask():
        right.extend(np.array_equal(client.conv2d(x, w, groups=2), want) for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(right) == 120
    assert all(right)
