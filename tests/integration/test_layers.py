"""Resident layers: a real server, real clients, weights that stay."""

import asyncio
import itertools
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from groupconv.tensors import type_to_wire
from groupconv.v1 import convolution_pb2, layer_pb2, layer_pb2_grpc, spec_pb2
from groupconv_server.config import Config
from groupconv_server.server import Server
from oracle import check
from strategies import Case, cases

RNG = np.random.default_rng(6)
F32 = np.dtype(np.float32)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def small():
    """A server whose layers may take 4 KiB."""
    config = Config(port=0, executor="local", threads=1, engine="reference", layer_bytes=4096)
    with Server(config) as server, groupconv.connect(server.address, timeout=60) as client:
        yield server, client


@settings(max_examples=60)
@given(case=cases())
def test_every_variant_as_a_layer_is_what_the_reference_says(client, case: Case):
    with client.load_layer("tests/case", case.weight, case.bias, case.spec) as layer:
        result = layer.run(case.x)
        check(result.output, case)
        np.testing.assert_array_equal(layer(case.x), result.output)
        assert result.report.plan.steps[0].output_shape == result.output.shape
        assert layer.statistics().requests == 2


def test_steps_without_batch_axis_into_out_and_other_shapes(client):
    steps = [
        Step(f32(4, 1, 3, 3), f32(4), ConvSpec(padding=1, groups=4, activation="relu")),
        Step(f32(6, 4, 1, 1)),
    ]
    with client.load_layer_steps("tests/separable", steps) as layer:
        for shape in ((4, 9, 8), (1, 4, 5, 5), (3, 4, 9, 8)):
            x = f32(*shape)
            want = client.run(x, steps).output
            out = np.empty_like(want)
            assert layer(x, out=out) is out
            np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(layer(x.astype(np.float64)), want, rtol=1e-5, atol=1e-5)
        info = layer.statistics()
        assert (info.requests, info.failures, info.samples) == (4, 0, 1 + 1 + 3 + 3)
        assert info.seconds > 0
        assert info.bytes == 4 * (36 + 4 + 24)
    with pytest.raises(NotFoundError, match="tests/separable"):
        layer(x)
    with pytest.raises(NotFoundError):
        layer.unload()


def test_the_workers_prepare_a_kernel_once(small):
    server, client = small
    (worker,) = server.executor._workers.values()
    prepare, prepared = worker.engine.prepare, []
    worker.engine.prepare = lambda *a, **k: prepared.append(k) or prepare(*a, **k)
    w = f32(2, 2, 3, 3)
    with client.load_layer("once", w) as layer:
        for batch in (1, 4, 2):
            layer(f32(batch, 2, 6, 6))
        assert prepared == [{"resident": True}]
        assert worker.resident.bytes == w.nbytes
        layer(f32(1, 2, 7, 7))
        assert len(prepared) == 2
    assert worker.resident.bytes == 0


def test_a_new_version_takes_over_and_every_answer_is_of_one_version(client):
    """Both steps multiply by the version's number: a mixture would not be a square."""
    x = np.ones((1, 1, 8, 8), np.float32)

    def load(n):
        kernel = np.full((1, 1, 1, 1), n, np.float32)
        return client.load_layer_steps("tests/switched", [Step(kernel), Step(kernel)])

    layer = load(1)
    done = threading.Event()

    def ask():
        seen = []
        while not done.is_set():
            y = layer(x)
            assert (y == y.flat[0]).all()
            seen.append(int(y.flat[0]))
        return seen

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        versions = [load(n).info.version for n in range(2, 30)]
        done.set()
        for future in asking:
            seen = future.result()
            assert seen == sorted(seen)  # never back to an older version
            assert set(seen) <= {n * n for n in range(1, 30)}
    assert versions == sorted(set(versions))
    assert layer(x).flat[0] == 29**2
    layer.unload()


@contextmanager
def prepared_by(server):
    """The kernels that the workers prepare, as they are prepared: the problem of each."""
    engines = [worker.engine for worker in server.executor._workers.values()]
    before, seen = [engine.prepare for engine in engines], []

    def watching(prepare):
        return lambda problem, *a, **k: seen.append(problem) or prepare(problem, *a, **k)

    for engine in engines:
        engine.prepare = watching(engine.prepare)
    try:
        yield seen
    finally:
        for engine, prepare in zip(engines, before, strict=True):
            engine.prepare = prepare


def whole(seen):
    """How often kernels were prepared uncut, by extents; the planner may try a cut at any time, and prepare parts."""
    return Counter(p.geometry.input for p in seen if p.geometry.groups == 2)


def test_a_layer_is_prepared_on_every_worker_when_it_is_loaded_not_when_it_is_first_used(server, client):
    w = f32(4, 2, 3, 3)
    with prepared_by(server) as seen:
        layer = client.load_layer("tests/warm", w, spec=ConvSpec(groups=2), inputs=[(1, 4, 8, 8), (2, 4, 6, 6)])
        at_load = whole(seen)
        assert at_load == {(8, 8): 2, (6, 6): 2}  # on each worker
        for x in (f32(1, 4, 8, 8), f32(2, 4, 6, 6)):
            for _ in range(4):
                layer(x)
        assert whole(seen) == at_load
        layer(f32(1, 4, 5, 5))  # of another size
        assert whole(seen) == {**at_load, (5, 5): 1}
        assert layer.statistics().requests == 9
    layer.unload()


def test_a_new_version_is_prepared_for_what_the_one_before_was_given(server, client):
    layer = client.load_layer("tests/again", f32(2, 2, 3))
    x = f32(1, 2, 9)
    layer(x)
    with prepared_by(server) as seen:
        client.load_layer("tests/again", w := f32(2, 2, 3))
        at_load = len(seen)
        np.testing.assert_allclose(layer(x), client.conv1d(x, w), rtol=1e-5, atol=1e-5)
        assert [p for p in seen[at_load:] if p.geometry.input == (9,)] == seen[at_load:][:1]  # the one-shot's alone
        client.load_layer("tests/again", f32(2, 5, 3))  # for other inputs: what was expected before does not fit
    layer.unload()


def test_an_input_to_expect_that_does_not_fit_refuses_the_load(server, client):
    with pytest.raises(InvalidArgumentError, match="channels") as caught:
        client.load_layer("tests/unfit", f32(2, 2, 3), inputs=[(1, 2, 9), (1, 3, 9)])
    assert caught.value.field.startswith("inputs[1].")
    with pytest.raises(NotFoundError):
        client.get_layer("tests/unfit")
    assert not any(key.layer == "tests/unfit" for w in server.executor._workers.values() for key, _ in w.resident._kept)


def test_load_replace_and_unload_under_traffic(server):
    """Every answer is the square of one version's number, or there is no layer at that moment."""
    x = np.ones((1, 1, 8, 8), np.float32)
    done = threading.Event()

    def ask(address):
        answers, missing = 0, 0
        with groupconv.connect(address, timeout=60) as client:
            client.load_layer("tests/once", np.ones((1, 1, 1, 1), np.float32))
            while not done.is_set():
                try:
                    y = client.get_layer("tests/traffic")(x)
                except NotFoundError:
                    missing += 1
                    continue
                root = round(float(y.flat[0]) ** 0.5)
                assert (y == root * root).all()
                answers += 1
        return answers, missing

    def change(address, numbers):
        with groupconv.connect(address, timeout=60) as client:
            for n in numbers:
                kernel = np.full((1, 1, 1, 1), n, np.float32)
                client.load_layer_steps("tests/traffic", [Step(kernel), Step(kernel)])
                if n % 3 == 0:
                    with suppress(NotFoundError):  # another one has unloaded it
                        client.unload_layer("tests/traffic")

    before = server.layers.bytes
    with ThreadPoolExecutor(5) as pool:
        asking = [pool.submit(ask, server.address) for _ in range(3)]
        changing = [pool.submit(change, server.address, range(first, 41, 2)) for first in (1, 2)]
        for future in changing:
            future.result()
        done.set()
        answers = sum(future.result()[0] for future in asking)
    assert answers > 0
    with groupconv.connect(server.address, timeout=60) as client:
        for info in client.list_layers():
            if info.name in ("tests/traffic", "tests/once"):
                client.unload_layer(info.name)
    assert server.layers.bytes == before


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "a/../b", "..", "a//b", "a/", "a\x00b", "a\nb", "x" * 10240, "ä", "."]
)
def test_names_that_cannot_be(client, name):
    with pytest.raises(InvalidArgumentError, match="name: expected segments"):
        client.load_layer(name, f32(1, 1, 1))


def test_layers_over_the_quota_are_refused_and_leave_nothing(small):
    server, client = small
    client.load_layer("one", f32(16, 32, 1))  # 2 KiB
    with pytest.raises(ResourceExhaustedError, match=r"2\.5 KiB of weights do not fit beside the 2 KiB loaded"):
        client.load_layer("two", f32(20, 32, 1))
    assert server.layers.bytes == 2048
    client.load_layer("two", f32(16, 32, 1))
    client.unload_layer("one")
    client.load_layer("three", f32(16, 32, 1))
    assert [layer.name for layer in client.list_layers()] == ["three", "two"]


def test_where_the_operator_allows_it_the_least_recently_used_layer_leaves():
    config = Config(port=0, executor="local", threads=1, engine="reference", layer_bytes=4096, evict_layers=True)
    with Server(config) as server, groupconv.connect(server.address, timeout=60) as client:
        first, _ = client.load_layer("first", f32(16, 32, 1)), client.load_layer("second", f32(16, 32, 1))
        first(f32(1, 32, 4))
        client.load_layer("third", f32(16, 32, 1))
        assert [layer.name for layer in client.list_layers()] == ["first", "third"]
        with pytest.raises(ResourceExhaustedError):
            client.load_layer("huge", f32(40, 32, 1))
        assert [layer.name for layer in client.list_layers()] == ["first", "third"]  # nobody left for it


def header(name="tests/raw", kernel=(2, 2, 3), **more):
    step = layer_pb2.LayerStep(kernel=type_to_wire(F32, kernel), **more)
    return layer_pb2.LoadLayerRequest(header=layer_pb2.LayerHeader(name=name, steps=[step]))


def chunk(n):
    return layer_pb2.LoadLayerRequest(chunk=bytes(n))


@pytest.mark.parametrize(
    ("stream", "field", "said"),
    [
        ([], "header", "empty stream"),
        ([chunk(48)], "header", "'chunk'"),
        ([header(), chunk(40)], "chunk", "expected 48 bytes of weights, got '40 bytes'"),
        ([header(), chunk(49)], "chunk", "48 bytes"),
        ([header(), chunk(48), chunk(1)], "chunk", "48 bytes"),
        ([header(), header(), chunk(48)], "chunk", "'header'"),
        ([layer_pb2.LoadLayerRequest(header=layer_pb2.LayerHeader(name="a"))], "steps", "1 to 64"),
        ([header(kernel=(2, -2, 3)), chunk(48)], "steps[0].kernel.shape[1]", "-2"),
        ([header(kernel=(2, 2)), chunk(16)], "steps[0].kernel.shape", "3 to 5"),
        ([header(bias=type_to_wire(F32, (3,))), chunk(60)], "steps[0].bias.shape", "[2]"),
        ([header(spec=spec_pb2.ConvSpec(groups=3)), chunk(48)], "steps[0].spec.groups", "divisor of 2"),
        ([header(spec=spec_pb2.ConvSpec(groups=-1)), chunk(48)], "steps[0].spec.groups", "-1"),
    ],
)
def test_streams_that_cannot_be_are_refused_and_leave_nothing(server, stream, field, said):
    with grpc.insecure_channel(server.address) as channel:
        load = layer_pb2_grpc.LayerServiceStub(channel).LoadLayer
        with pytest.raises(grpc.RpcError) as caught:
            load(iter(stream), timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(field)
        assert said in caught.value.details()
    assert server.layers.bytes == 0


def test_a_shape_that_overflows_64_bits_is_refused_before_anything_is_allocated(server):
    with grpc.insecure_channel(server.address) as channel:
        load = layer_pb2_grpc.LayerServiceStub(channel).LoadLayer
        with pytest.raises(grpc.RpcError) as caught:
            load(iter([header(kernel=(2**40, 2**40, 3))]), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 60), max_size=6))
def test_chunks_may_be_cut_anywhere(server, client, cuts):
    w, b = f32(2, 2, 3), f32(2)
    data = w.tobytes() + b.tobytes()
    at = sorted({0, len(data), *[c for c in cuts if c < len(data)]})
    parts = [layer_pb2.LoadLayerRequest(chunk=data[a:z]) for a, z in itertools.pairwise(at)]
    with grpc.insecure_channel(server.address) as channel:
        layer_pb2_grpc.LayerServiceStub(channel).LoadLayer(
            iter([header(bias=type_to_wire(F32, (2,))), *parts]), timeout=60
        )
    x = f32(1, 2, 5)
    with client.get_layer("tests/raw") as layer:
        np.testing.assert_allclose(layer(x), client.conv1d(x, w, b), rtol=1e-5, atol=1e-5)


def test_an_input_that_does_not_fit_names_the_field(client):
    with client.load_layer("tests/fits", f32(2, 3, 3, 3)) as layer:
        with pytest.raises(InvalidArgumentError, match="channels") as caught:
            layer(f32(1, 4, 8, 8))
        assert caught.value.field.startswith("input")


def test_a_layer_and_steps_at_once_are_refused(client):
    from groupconv.requests import convolve_request

    with client.load_layer("tests/both", f32(1, 1, 1)):
        request = convolution_pb2.ConvolveRequest.FromString(convolve_request(f32(1, 1, 4), [Step(f32(1, 1, 1))]))
        request.layer = "tests/both"
        with pytest.raises(InvalidArgumentError, match="steps: expected none where a layer is named"):
            client._call(client._convolution.Convolve, request, 60)


def test_the_awaiting_client_has_the_same_layers(server, client):
    async def main():
        async with groupconv.aio.connect(server.address, timeout=60) as c:
            w, b, x = f32(4, 2, 3, 3), f32(4), f32(2, 4, 9, 9)
            async with await c.load_layer("tests/aio", w, b, ConvSpec(groups=2)) as layer:
                ys = await asyncio.gather(*[layer(x) for _ in range(4)])
                assert (await layer.run(x)).report.plan.steps
                assert (await layer.statistics()).requests == 5
                assert "tests/aio" in [i.name for i in await c.list_layers()]
            with pytest.raises(NotFoundError):
                await c.get_layer("tests/aio")
            with pytest.raises(InvalidArgumentError):
                await c.load_layer("..", w)
            return ys, x, w, b

    ys, x, w, b = asyncio.run(main())
    for y in ys:
        np.testing.assert_allclose(y, client.conv2d(x, w, b, groups=2), rtol=1e-5, atol=1e-5)


@pytest.mark.ray
def test_actors_ask_for_weights_once_and_again_after_a_restart(ray_executor):
    """The weights of a layer travel when an actor lacks them, and only then."""
    import ray

    from groupconv_server.coordinator import Coordinator
    from groupconv_server.layers import Layers

    layers = Layers(ray_executor.forget, capacity=2**20)
    coordinator = Coordinator(ray_executor)
    w, x = f32(4, 2, 3, 3), f32(2, 4, 8, 8)
    spec = ConvSpec(groups=2)
    want = coordinator.convolve(x, [Step(w, None, spec)]).output
    with layers.reserved(w.nbytes) as room:
        layers.load("ray", [Step(w, None, spec)], room)
    launched = []
    launch = ray_executor._launch
    ray_executor._launch = lambda *a, weights=False, **k: launched.append(weights) or launch(*a, weights=weights, **k)
    try:
        with layers.using("ray") as layer:

            def ask():
                launched.clear()
                np.testing.assert_array_equal(coordinator.convolve(x, layer.steps).output, want)
                return sum(launched)

            while ask():  # until every actor that the planner likes has them
                pass
            assert ask() == 0
            for slot in ray_executor.membership.slots:
                ray.get(slot.actor.forget.remote("ray", layer.version))
            assert ask() >= 1
    finally:
        ray_executor._launch = launch
        layers.unload("ray")


@pytest.mark.ray
def test_replaced_under_traffic_while_a_worker_is_killed(ray_executor):
    """Answers stay wholly of one version, and none is lost; the actor that is killed comes back without weights."""
    from groupconv_server.coordinator import Coordinator
    from groupconv_server.layers import Layers
    from groupconv_server.repository import Repository

    layers, coordinator = Layers(ray_executor.forget, capacity=2**20), Coordinator(ray_executor)
    repository = Repository(layers, coordinator=coordinator)
    x = np.ones((2, 2, 6, 6), np.float32)
    restarts = sum(w.restarts for w in ray_executor.describe())
    done = threading.Event()

    def load(n):
        steps = [Step(np.full((2, 1, 1, 1), n, np.float32), None, ConvSpec(groups=2))] * 2
        with layers.reserved(16) as room:
            repository.load("killed", steps, room, [(x.shape, x.dtype)])

    def ask():
        seen = []
        while not done.is_set():
            with layers.using("killed") as layer:
                y = coordinator.convolve(x, layer.steps).output
            assert (y == y.flat[0]).all()
            seen.append(int(y.flat[0]))
        return seen

    load(1)
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for n in range(2, 8):
                if n == 4:
                    os.kill(ray_executor.membership.slots[0].facts["pid"], signal.SIGKILL)
                load(n)
        finally:
            done.set()
        for future in asking:
            seen = future.result(60)
            assert seen
            assert seen == sorted(seen)
            assert set(seen) <= {n * n for n in range(1, 8)}
    limit = time.monotonic() + 60
    while len(ray_executor.workers()) < 2 and time.monotonic() < limit:
        with layers.using("killed") as layer:
            assert (coordinator.convolve(x, layer.steps).output == 49).all()
    assert sum(w.restarts for w in ray_executor.describe()) == restarts + 1
    layers.unload("killed")
