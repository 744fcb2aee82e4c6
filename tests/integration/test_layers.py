"""Resident layers: a real server, real clients, weights that stay."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from groupconv.v1 import convolution_pb2
from groupconv.wire.requests import CONVOLVE, convolve_request
from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_worker.resident import OVERHEAD
from oracle import check
from strategies import Case, cases

RNG = np.random.default_rng(6)


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
        check(layer(case.x), case)  # not the same bits: the plan may be another one
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


def test_the_workers_prepare_a_kernel_once():
    with Server(Config(port=0, threads=1, engine="reference")) as server, groupconv.connect(server.address) as client:
        _prepared_once(server, client)


def _prepared_once(server, client):
    (worker,) = server.executor._workers.values()
    prepare, prepared = worker.runtime.engine.prepare, []
    worker.runtime.engine.prepare = lambda *a, **k: prepared.append(k) or prepare(*a, **k)
    w = f32(2, 2, 3, 3)
    with client.load_layer("once", w) as layer:
        for batch in (1, 4, 2):
            layer(f32(batch, 2, 6, 6))
        assert prepared == [{"resident": True}]
        assert w.nbytes < worker.runtime.resident.bytes < w.nbytes + 2 * OVERHEAD
        layer(f32(1, 2, 7, 7))
        assert len(prepared) == 2
    assert worker.runtime.resident.bytes == 0


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


def test_an_input_that_does_not_fit_names_the_field(client):
    with client.load_layer("tests/fits", f32(2, 3, 3, 3)) as layer:
        with pytest.raises(InvalidArgumentError, match="channels") as caught:
            layer(f32(1, 4, 8, 8))
        assert caught.value.field.startswith("input")


def test_a_layer_and_steps_at_once_are_refused(client):
    with client.load_layer("tests/both", f32(1, 1, 1)):
        request = convolution_pb2.ConvolveRequest.FromString(convolve_request(f32(1, 1, 4), [Step(f32(1, 1, 1))]))
        request.layer = "tests/both"
        with pytest.raises(InvalidArgumentError, match="steps: expected none where a layer is named"):
            client._call(client._unary(CONVOLVE), request.SerializeToString(), 60)


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
