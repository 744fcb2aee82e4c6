"""Arrays on a device with channels last, by `layout="NHWC"` or by their strides: shared, or copied where need be."""

import asyncio

import numpy as np
import pytest
from on_device import SHAPE, SIZE, SPEC, W, expected, image, on_device, regions

import groupconv
from emulation.libcuda import OnDevice
from groupconv import ConvSpec, Step
from groupconv.convolution.dtypes import BFLOAT16
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import memory_pb2
from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_server.servicers.memory import MemoryServicer
from groupconv_worker.cuda.ipc import DeviceTensor

LAST = (2, 16, 16, 4)
NHWC = "NHWC"


def last(x, axis=1):
    """With its channels as the last axis."""
    return np.ascontiguousarray(np.moveaxis(x, axis, -1))


def empty(library, shape=LAST, dtype=np.float32, **options):
    return on_device(library, np.zeros(shape, dtype), **options)


def strided(library, x):
    """As torch makes an array with `memory_format=torch.channels_last`: the shape is (N, C, H, W)."""
    return OnDevice(np.moveaxis(on_device(library, last(x)).array, -1, 1), stream=1)


def test_the_layout_of_arrays_that_stay_on_the_device(library, sharing, near, seen):
    x, out = on_device(library, last(image())), empty(library)
    assert near.convolve(x, W, spec=SPEC, out=out, layout=NHWC) is out
    np.testing.assert_array_equal(out.array, last(expected(image())))
    steps = [Step(W, None, SPEC), Step(np.ones((2, 4, 1, 1), np.float32))]
    two = empty(library, (2, 16, 16, 2))
    assert near.run(x, steps, out=two, layout=NHWC).output is two
    pointwise = np.ones((2, 4, 1, 1), np.float32)
    np.testing.assert_array_equal(two.array, last(expected(expected(image()), pointwise, ConvSpec())))
    with near.load_layer("tests/last", W, None, SPEC) as layer:
        for i in range(3):  # launched, captured, by the graph
            x.array[...], out.array[...] = last(image(i)), 0
            assert layer(x, out=out, layout=NHWC) is out
            np.testing.assert_array_equal(out.array, last(expected(image(i))))
        one = empty(library, LAST[1:])
        assert layer.run(on_device(library, last(image()[0], 0)), out=one, layout=NHWC).output is one
        np.testing.assert_array_equal(one.array, last(expected(image()[0]), 0))
    kind = DeviceTensor if sharing.config.engine == "cuda" else np.ndarray
    assert {type(task.x) for task in seen} == {type(task.out) for task in seen} == {kind}
    assert len(regions(sharing)) == 5


def test_channels_last_by_strides(library, sharing, near, seen):
    x, out = strided(library, image()), strided(library, image(7))
    assert near.convolve(x, W, spec=SPEC, out=out) is out
    np.testing.assert_array_equal(out.array, expected(image()))
    with near.load_layer("tests/strided", W, None, SPEC) as layer:
        x.array[...] = image(2)
        assert layer(x, out=out) is out
        np.testing.assert_array_equal(out.array, expected(image(2)))
        single, filled = image(3)[0], image(4)[0]
        there, one = (
            OnDevice(np.moveaxis(on_device(library, last(a, 0)).array, -1, 0), stream=1) for a in (single, filled)
        )
        assert layer(there, out=one) is one
        np.testing.assert_array_equal(one.array, expected(single))
    kind = DeviceTensor if sharing.config.engine == "cuda" else np.ndarray
    assert {type(task.x) for task in seen} == {type(task.out) for task in seen} == {kind}
    kernel = strided(library, np.broadcast_to(image(5, (4, 4, 1, 1)), (4, 4, 3, 3)))
    np.testing.assert_array_equal(near.conv2d(x, kernel), expected(image(2), kernel.array, ConvSpec()))


def test_one_of_both_on_the_device(library, sharing, near):
    x, out, here = on_device(library, last(image())), empty(library), np.zeros(LAST, np.float32)
    want = last(expected(image()))
    np.testing.assert_array_equal(near.convolve(x, W, spec=SPEC, layout=NHWC), want)
    assert near.convolve(x, W, spec=SPEC, layout=NHWC, out=here) is here
    np.testing.assert_array_equal(here, want)
    assert near.convolve(last(image()), W, spec=SPEC, layout=NHWC, out=out) is out
    np.testing.assert_array_equal(out.array, want)
    first = on_device(library, np.zeros(SHAPE, np.float32))  # the output as the input lies, and otherwise
    near.convolve(strided(library, image()), W, spec=SPEC, out=first)
    np.testing.assert_array_equal(first.array, expected(image()))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_dtype_and_rank(library, sharing, near, rank):
    for dtype in (np.float32, np.float16, BFLOAT16, np.int8, np.float64):
        x, w = image(3, (2, 3, *(5, 8, 4)[:rank]), dtype), image(4, (5, 3, *[1] * rank), np.dtype(dtype))
        want = last(expected(x, w, ConvSpec()))
        out = on_device(library, np.zeros(want.shape, want.dtype))
        for offset in (32, np.dtype(dtype).itemsize):  # the second one is not aligned for kernels
            out.array[...] = 0
            there = on_device(library, last(x), offset=offset)
            assert near.convolve(there, w, layout=NHWC, out=out) is out
            np.testing.assert_array_equal(out.array, want)


def test_the_same_memory_for_input_and_output(library, sharing, near):
    x = on_device(library, last(image()))
    assert near.convolve(x, W, spec=SPEC, out=x, layout=NHWC) is x
    np.testing.assert_array_equal(x.array, last(expected(image())))


def test_a_server_that_does_not_know_it_gets_copies(library, host, near, monkeypatch):
    register = MemoryServicer.RegisterDeviceMemory

    def older(*arguments):
        return memory_pb2.RegisterDeviceMemoryResponse(region=register(*arguments).region)

    monkeypatch.setattr(MemoryServicer, "RegisterDeviceMemory", older)
    with Server(Config(port=0, executor="local", threads=1, engine="cpu", shared_memory=True)) as server:
        for shared in (True, False):
            with groupconv.connect(server.address, timeout=60, shared_memory=shared) as client:
                for _ in range(2):
                    x, out = on_device(library, last(image())), empty(library)
                    assert client.convolve(x, W, spec=SPEC, out=out, layout=NHWC) is out
                    np.testing.assert_array_equal(out.array, last(expected(image())))
                    other = strided(library, image())
                    assert client.convolve(strided(library, image(2)), W, spec=SPEC, out=other) is other
                    np.testing.assert_array_equal(other.array, expected(image(2)))


def test_awaiting(library, host):
    async def main():
        async with groupconv.aio.connect(host.address, shared_memory=True) as client:
            x, outs = on_device(library, last(image())), [empty(library) for _ in range(3)]
            done = await asyncio.gather(*(client.convolve(x, W, spec=SPEC, out=o, layout=NHWC) for o in outs))
            assert all(a is b for a, b in zip(done, outs, strict=True))
            return [out.array for out in outs]

    for y in asyncio.run(main()):
        np.testing.assert_array_equal(y, last(expected(image())))


def test_gaps_are_copied_or_refused(library, host, near):
    wide = library.allocate(2 * SIZE).view(np.float32).reshape(2, 16, 16, 8)
    wide[..., ::2] = last(image())
    gaps = OnDevice(wide[..., ::2], stream=1)
    np.testing.assert_array_equal(near.convolve(gaps, W, spec=SPEC, layout=NHWC), last(expected(image())))
    for out, layout in ((gaps, NHWC), (gaps, None), (strided(library, image()), NHWC)):
        with pytest.raises(InvalidArgumentError, match="out: expected"):
            near.convolve(image() if layout is None else last(image()), W, spec=SPEC, out=out, layout=layout)
    with pytest.raises(InvalidArgumentError, match=r"input\.shape: expected 4 dimensions, or 3 without a batch"):
        near.conv2d(on_device(library, image()[0, 0]), W, layout=NHWC)
    with pytest.raises(
        InvalidArgumentError, match=r"out: expected shape \(2, 16, 16, 4\)|out: expected shape \(2, 4, 16, 16\)"
    ):
        near.convolve(last(image()), W, spec=SPEC, out=empty(library, (2, 8, 8, 4)), layout=NHWC)
