"""`layout="NHWC"`: channels last in and out are the bits of channels first, by every way to a server."""

import asyncio

import numpy as np
import pytest
import zarr

import groupconv
from groupconv import Step
from groupconv.errors import InvalidArgumentError
from groupconv_server.config import Config
from groupconv_server.server import Server

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 9, 8, 6)).astype(np.float32)  # (N, H, W, C)
W = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
FIRST = np.ascontiguousarray(np.moveaxis(X, -1, 1))
OPTIONS = {"padding": 1, "groups": 2, "activation": "relu"}


@pytest.fixture(scope="module")
def server():
    config = Config(port=0, executor="local", workers=1, threads=1, engine="reference", shared_memory=True)
    with Server(config) as server:
        yield server


@pytest.fixture(scope="module", params=[False, True], ids=["in messages", "in shared memory"])
def client(server, request):
    with groupconv.connect(server.address, timeout=60, shared_memory=request.param) as client:
        yield client


def test_the_answer_is_a_view_with_channels_last(client):
    want = client.conv2d(FIRST, W, **OPTIONS)
    y = client.conv2d(X, W, layout="NHWC", **OPTIONS)
    assert y.shape == (2, 9, 8, 4)
    np.testing.assert_array_equal(np.moveaxis(y, -1, 1), want)
    assert np.moveaxis(y, -1, 1).flags.c_contiguous  # nothing was copied on its way out
    one = client.conv2d(X[0], W, layout="NHWC", **OPTIONS)
    np.testing.assert_array_equal(one, y[0])
    result = client.run(X, [Step(W, spec=groupconv.ConvSpec(**OPTIONS))], layout="NHWC")
    np.testing.assert_array_equal(result.output, y)
    assert result.report.steps


def test_an_array_to_fill_is_filled_as_it_lies(client):
    want, out = client.conv2d(X, W, layout="NHWC", **OPTIONS), np.full((2, 9, 8, 4), np.nan, np.float32)
    assert client.conv2d(X, W, out=out, layout="NHWC", **OPTIONS) is out
    np.testing.assert_array_equal(out, want)
    mine = client.empty(X.shape)
    mine[...] = X
    np.testing.assert_array_equal(client.conv2d(mine, W, layout="NHWC", **OPTIONS), want)


class Foreign:
    """An array that NumPy views, with a dtype that is not NumPy's, as torch's tensors are."""

    dtype = "foreign.float32"

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __array__(self, dtype=None, copy=None):
        return self.array

    def __setitem__(self, key, value):
        raise AssertionError("it is filled as a NumPy array")


def test_arrays_of_other_libraries_are_filled(client):
    want, array = client.conv2d(X, W, layout="NHWC", **OPTIONS), np.full((2, 9, 8, 4), np.nan, np.float32)
    stored, foreign = zarr.zeros((2, 9, 8, 4), dtype="float32"), Foreign(array)
    assert client.conv2d(X, W, out=stored, layout="NHWC", **OPTIONS) is stored
    assert client.conv2d(X, W, out=foreign, layout="NHWC", **OPTIONS) is foreign
    for filled in (stored[...], array):
        np.testing.assert_array_equal(filled, want)
    with client.load_layer("stored", W, None, groupconv.ConvSpec(**OPTIONS)) as layer:
        stored[...] = 0
        assert layer(X, out=stored, layout="NHWC") is stored
    np.testing.assert_array_equal(stored[...], want)
    foreign = Foreign(np.zeros((2, 4, 9, 8), np.float32))
    assert client.conv2d(FIRST, W, out=foreign, **OPTIONS) is foreign
    np.testing.assert_array_equal(np.moveaxis(foreign.array, 1, -1), want)


def test_other_ranks_and_functions(client):
    line, volume = RNG.standard_normal((1, 12, 2)), RNG.standard_normal((1, 5, 6, 7, 2))
    for name, x in (("conv1d", line), ("conv3d", volume)):
        rank = x.ndim - 2
        w = RNG.standard_normal((4, 2, *(3,) * rank))
        want = getattr(client, name)(np.moveaxis(x, -1, 1), w)
        np.testing.assert_array_equal(getattr(client, name)(x, w, layout="NHWC"), np.moveaxis(want, 1, -1))
    depthwise = RNG.standard_normal((6, 1, 3, 3)).astype(np.float32)
    want = np.moveaxis(client.depthwise_conv2d(FIRST, depthwise), 1, -1)
    np.testing.assert_array_equal(client.depthwise_conv2d(X, depthwise, layout="NHWC"), want)


def test_layers(client):
    with client.load_layer("last", W, None, groupconv.ConvSpec(**OPTIONS)) as layer:
        want, out = layer(FIRST), np.full((2, 9, 8, 4), np.nan, np.float32)
        np.testing.assert_array_equal(np.moveaxis(layer(X, layout="NHWC"), -1, 1), want)
        np.testing.assert_array_equal(np.moveaxis(layer.run(X[1], layout="NHWC").output, -1, 0), want[1])
        assert layer(X, out=out, layout="NHWC") is out
        np.testing.assert_array_equal(np.moveaxis(out, -1, 1), want)
        np.testing.assert_array_equal(layer(FIRST), want)


def test_the_awaiting_client(server):
    async def call():
        async with groupconv.aio.connect(server.address, timeout=60) as client:
            layer = await client.load_layer("awaited", W, None, groupconv.ConvSpec(**OPTIONS))
            last = await client.conv2d(X, W, layout="NHWC", **OPTIONS), await layer(X, layout="NHWC")
            return last, await client.conv2d(FIRST, W, **OPTIONS)

    answers, first = asyncio.run(call())
    for last in answers:
        np.testing.assert_array_equal(np.moveaxis(last, -1, 1), first)


def test_what_cannot_be_is_refused(client):
    for x, layout, words in (
        (X, "NHCW", "layout: expected one of NCHW, NHWC, got 'NHCW'"),
        (X[0, 0], "NHWC", "input.shape: expected 4 dimensions, or 3 without a batch"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            client.conv2d(x, W, layout=layout, **OPTIONS)
    with pytest.raises(InvalidArgumentError, match=r"out: expected shape \(2, 9, 8, 4\)"):
        client.conv2d(X, W, out=np.empty((2, 4, 9, 8), np.float32), layout="NHWC", **OPTIONS)
    for out, words in (
        (np.empty(3), "out.shape: expected 4 dimensions, or 3 without a batch"),
        (np.broadcast_to(np.float32(0), (2, 9, 8, 4)), "out: expected a writable array"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            client.conv2d(X, W, out=out, layout="NHWC", **OPTIONS)
