"""The SDK's arrays on a device, end to end on an emulated one: what is shared, what goes by the host, what is wrong."""

import asyncio
import functools
import threading

import grpc
import numpy as np
import pytest
from on_device import SHAPE, SIZE, SPEC, W, expected, image, on_device, regions

import groupconv
from emulation.libcuda import OnDevice
from groupconv import ConvSpec, Step
from groupconv.convolution.dtypes import BFLOAT16
from groupconv.errors import (
    InvalidArgumentError,
)
from groupconv.gpu import driver as cuda
from groupconv_server.inference.v2 import infer_pb2, service_pb2_grpc, shared_memory_pb2
from groupconv_server.planner.cuts import Cut
from groupconv_worker.cuda.ipc import DeviceTensor


def test_an_input_and_an_output_stay_on_the_device(library, sharing, near, seen):
    x, out = on_device(library, image()), on_device(library, np.zeros(SHAPE, np.float32))
    assert near.convolve(x, W, spec=SPEC, out=out) is out
    np.testing.assert_array_equal(out.array, expected(image()))
    with near.load_layer("tests/device", W, None, SPEC) as layer:
        x.array[...] = image(2)
        out.array[...] = 0
        result = layer.run(x, out=out)
        assert result.output is out
        assert result.report.plan.steps
        np.testing.assert_array_equal(out.array, expected(image(2)))
        y = layer(x)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, out.array)
    assert len(regions(sharing)) == 2
    kind = DeviceTensor if sharing.config.engine == "cuda" else np.ndarray
    assert [type(task.x) for task in seen[-3:]] == [kind] * 3
    assert [type(task.out) for task in seen[-3:]] == [kind, kind, np.ndarray]


def test_every_function_and_dtype(library, sharing, near):
    for dtype in (np.float32, np.float16, BFLOAT16, np.int8, np.float64):
        x, w = image(3, (1, 3, 8, 8), dtype), np.ones((5, 3, 1, 1), np.dtype(dtype))
        there = on_device(library, x, offset=32)
        y = near.conv2d(there, w)
        assert y.dtype == expected(x, w, ConvSpec()).dtype
        np.testing.assert_array_equal(y, expected(x, w, ConvSpec()))
    x = on_device(library, image()[0])
    w = np.ones((4, 1, 3, 3), np.float32)
    y = near.depthwise_conv2d(x, w)
    np.testing.assert_array_equal(y, expected(image()[0], w, ConvSpec(groups=4)))
    out = on_device(library, np.zeros((4, 14, 14), np.float32))
    assert near.depthwise_conv2d(x, w, out=out) is out
    np.testing.assert_array_equal(out.array, y)
    near.spatially_separable_conv2d(
        x, [1.0, 2.0], [1.0, 1.0], out=on_device(library, np.zeros((4, 15, 15), np.float32))
    )
    steps = [Step(W, None, SPEC), Step(np.ones((2, 4, 1, 1), np.float32))]
    out = on_device(library, np.zeros((2, 2, 16, 16), np.float32))
    near.run(on_device(library, image()), steps, out=out)
    np.testing.assert_array_equal(out.array, expected(expected(image()), np.ones((2, 4, 1, 1), np.float32), ConvSpec()))


@pytest.mark.parametrize("joined", [True, False])
def test_what_is_between_two_steps_stays_on_the_device(library, sharing, near, seen, joined, monkeypatch):
    made = []
    new_empty = DeviceTensor.new_empty
    monkeypatch.setattr(DeviceTensor, "new_empty", lambda *arguments: made.append(new_empty(*arguments)) or made[-1])
    planner = sharing.coordinator.planner
    cuts = [(2, Cut())] if joined else [(1, Cut()), (1, Cut())]
    monkeypatch.setattr(planner, "_make", lambda p, workers, *_, **more: planner.forced(p, workers, cuts))
    x = image(shape=(2, 4, 11 + joined, 13))  # which nobody has planned
    y = near.depthwise_separable_conv2d(on_device(library, x), W, np.ones((2, 4), np.float32), padding=1)
    np.testing.assert_array_equal(y, expected(expected(x), np.ones((2, 4, 1, 1), np.float32), ConvSpec()))
    assert len(seen) == 2 - joined
    # two shards meet in an array on the device; between the steps of one there are buffers of the engine's
    assert len(made) == (sharing.config.engine == "cuda" and not joined)


def test_parts_of_one_allocation_are_told_of_once(library, sharing, near):
    pool = library.allocate(8 * SIZE)
    parts = [OnDevice(pool[i * SIZE : (i + 1) * SIZE].view(np.float32).reshape(SHAPE), stream=1) for i in range(8)]
    for i in range(0, 8, 2):
        parts[i].array[...] = image(i)
        near.convolve(parts[i], W, spec=SPEC, out=parts[i + 1])
        np.testing.assert_array_equal(parts[i + 1].array, expected(image(i)))
    (region,) = regions(sharing)
    assert region.size == 8 * SIZE
    near.close()
    assert not regions(sharing)


def test_what_is_queued_is_waited_for(library, host, near):
    for queued, said in ((7, {"stream": 7}), (7, {}), (2, {"stream": 2})):
        x = on_device(library, np.zeros(SHAPE, np.float32))
        x = OnDevice(x.array, **said)
        library.queue(queued, lambda x=x: np.copyto(x.array, image()))
        np.testing.assert_array_equal(near.convolve(x, W, spec=SPEC), expected(image()))
    x = OnDevice(on_device(library, image()).array, stream=None)  # that is: nothing is queued
    library.queue(7, lambda: x.array.fill(0))
    np.testing.assert_array_equal(near.convolve(x, W, spec=SPEC), expected(image()))
    out = on_device(library, np.zeros(SHAPE, np.float32), stream=9)
    library.queue(9, lambda: out.array.fill(-1))  # what was queued before comes before
    near.convolve(image(), W, spec=SPEC, out=out)
    np.testing.assert_array_equal(out.array, expected(image()))


@pytest.mark.parametrize("mode", [True, "auto"])
@pytest.mark.parametrize(
    "attributes", [{"shareable": 0}, {"managed": 1}, {"kind": 1}, {"context": 0}, {"size": 64}], ids=str
)
def test_what_cuda_does_not_share_goes_by_the_host(library, host, mode, attributes):
    with groupconv.connect(host.address, timeout=60, shared_memory=mode) as client:
        memory = library.allocate(SIZE, **attributes)
        x = OnDevice(memory.view(np.float32).reshape(SHAPE), stream=1)
        x.array[...] = image()
        np.testing.assert_array_equal(client.convolve(x, W, spec=SPEC), expected(image()))
        out = OnDevice(library.allocate(SIZE, **attributes).view(np.float32).reshape(SHAPE), stream=1)
        assert client.convolve(image(), W, spec=SPEC, out=out) is out
        np.testing.assert_array_equal(out.array, expected(image()))
    assert not regions(host)


def test_gaps_and_other_dtypes_go_by_the_host(library, host, near):
    wide = library.allocate(2 * SIZE).view(np.float32).reshape(2, 4, 16, 32)
    wide[..., ::2] = image()
    np.testing.assert_array_equal(near.convolve(OnDevice(wide[..., ::2], stream=1), W, spec=SPEC), expected(image()))
    longs = on_device(library, image(dtype=np.int64))
    np.testing.assert_array_equal(near.convolve(longs, W, spec=SPEC), expected(image()))
    with near.load_layer("tests/half", W.astype(np.float16), None, SPEC) as layer:
        y = layer(on_device(library, image()))  # float32, and the layer is float16
    assert y.dtype == np.float16
    fixed = on_device(library, image())
    fixed.__cuda_array_interface__["data"] = (fixed.array.ctypes.data, True)
    for out in (OnDevice(wide[..., ::2], stream=1), fixed):
        with pytest.raises(InvalidArgumentError, match="out: expected to be writable and without gaps"):
            near.convolve(image(), W, spec=SPEC, out=out)
    assert len(regions(host)) == 0


def test_an_out_of_another_shape_or_dtype_is_refused(library, host, near):
    x = on_device(library, image())
    for out in (np.zeros((1, *SHAPE), np.float32), np.zeros((2, 4, 8, 8), np.float32), np.zeros(SHAPE, np.int32)):
        with pytest.raises(InvalidArgumentError, match="out: expected shape"):
            near.convolve(x, W, spec=SPEC, out=on_device(library, out))


def test_an_output_where_the_input_is(library, sharing, near):
    x = on_device(library, image())
    assert near.convolve(x, W, spec=SPEC, out=x) is x
    np.testing.assert_array_equal(x.array, expected(image()))


def test_without_shared_memory_arrays_go_by_the_host_whatever_numpy_makes_of_them(library, host):
    class Opaque(OnDevice):
        def __array__(self, *_, **__):
            raise TypeError

    with groupconv.connect(host.address, timeout=60) as client:
        for dtype in (np.float32, BFLOAT16):
            x, w = (Opaque(on_device(library, a.astype(dtype)).array, stream=3) for a in (image(), W))
            x.array[...] = 0
            library.queue(3, functools.partial(np.copyto, x.array, image().astype(dtype)))
            want = expected(image().astype(dtype), W.astype(dtype))
            np.testing.assert_array_equal(client.convolve(x, w, spec=SPEC), want)


def test_without_shared_memory_an_out_is_filled_by_the_host(library, host):
    with groupconv.connect(host.address, timeout=60) as client:
        out = on_device(library, np.zeros(SHAPE, np.float32))
        assert client.convolve(on_device(library, image()), W, spec=SPEC, out=out) is out
    np.testing.assert_array_equal(out.array, expected(image()))
    assert not regions(host)


def test_without_a_driver(sharing, near, monkeypatch):
    monkeypatch.setattr(cuda, "_driver", lambda: None)
    x = OnDevice(image(), stream=1)
    np.testing.assert_array_equal(near.convolve(x, W, spec=SPEC), expected(image()))
    with pytest.raises(groupconv.errors.InternalError, match=r"libcuda\.so\.1"):
        near.convolve(image(), W, spec=SPEC, out=x)


def test_awaiting(library, host):
    async def main():
        async with groupconv.aio.connect(host.address, shared_memory="auto") as client:
            outs = [on_device(library, np.zeros(SHAPE, np.float32)) for _ in range(4)]
            x = on_device(library, image())
            done = await asyncio.gather(*(client.convolve(x, W, spec=SPEC, out=out) for out in outs))
            assert all(a is b for a, b in zip(done, outs, strict=True))
            async with await client.load_layer("tests/aio", W, None, SPEC) as layer:
                return [await layer(x), *(out.array for out in outs)], len(regions(host))

    found, count = asyncio.run(main())
    assert count == 5
    assert not regions(host)
    for y in found:
        np.testing.assert_array_equal(y, expected(image()))


def test_tritons_clients_have_it_in_place_too(library, cupy, sharing, near, seen):
    memory = library.allocate(256)
    memory[:16].view(np.float32)[:] = [1, 2, 3, 4]
    request = infer_pb2.ModelInferRequest(model_name="tests/double")
    tensors = (request.inputs.add(name="x", datatype="FP32", shape=[1, 1, 4]), request.outputs.add(name="y"))
    for offset, tensor in zip((0, 64), tensors, strict=True):
        tensor.parameters["shared_memory_region"].string_param = "theirs"
        tensor.parameters["shared_memory_byte_size"].int64_param = 16
        tensor.parameters["shared_memory_offset"].int64_param = offset
    register = shared_memory_pb2.CudaSharedMemoryRegisterRequest(
        name="theirs", raw_handle=cupy.ipc.share(memory), device_id=0, byte_size=256
    )
    with (
        near.load_layer("tests/double", np.full((1, 1, 1), 2, np.float32)),
        grpc.insecure_channel(sharing.address) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.CudaSharedMemoryRegister(register, timeout=60)
        stub.ModelInfer(request, timeout=60)
        stub.CudaSharedMemoryUnregister(shared_memory_pb2.CudaSharedMemoryUnregisterRequest(), timeout=60)
    assert memory[64:80].view(np.float32).tolist() == [2, 4, 6, 8]
    kind = DeviceTensor if sharing.config.engine == "cuda" else np.ndarray
    assert [type(seen[-1].x), type(seen[-1].out)] == [kind, kind]


@pytest.mark.parametrize("mode", [True, False])
def test_awaiting_asks_for_the_stream_of_the_callers_thread(library, host, mode):
    """As CuPy's current stream is a thread's own."""
    me = threading.get_ident()

    class Threaded(OnDevice):
        @property
        def __cuda_array_interface__(self):
            return {**self._interface, "stream": 5 if threading.get_ident() == me else 1}

        @__cuda_array_interface__.setter
        def __cuda_array_interface__(self, interface):
            self._interface = interface

    async def main():
        async with groupconv.aio.connect(host.address, shared_memory=mode) as client:
            layer = await client.load_layer("tests/threads", W, None, SPEC)
            for call in (functools.partial(client.convolve, weight=W, spec=SPEC), layer):
                x, out = (Threaded(on_device(library, np.zeros(SHAPE, np.float32)).array, stream=1) for _ in range(2))
                library.queue(5, functools.partial(np.copyto, x.array, image()))
                assert await call(x, out=out) is out
                np.testing.assert_array_equal(out.array, expected(image()))

    asyncio.run(main())
