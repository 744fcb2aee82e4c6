"""Places on a device as a caller may name them on the wire, with a machine's device played."""

import gc

import numpy as np
import pytest

import groupconv
from emulation.libcuda import UUID
from groupconv.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from groupconv.v1 import tensor_pb2
from groupconv_server.config import Config
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.server import Server
from raw_client import Raw, at, x_at


def test_places_are_checked(library, cupy, sharing, near):
    raw = Raw(near)
    memory = library.allocate(256)
    memory[:16].view(np.float32)[:] = [1, 2, 3, 4]
    region = raw.register_device(cupy.ipc.share(memory), UUID, 256)
    answer = raw.convolve(x_at(region, 0, 16), at(region, 32, 64))
    assert answer.output.place.region == region
    assert not answer.output.data
    assert memory[32:48].view(np.float32).tolist() == [1, 2, 3, 4]
    assert memory[48:].max() == 0
    raw.convolve(x_at(region, 32, 16), at(region, 36, 16))  # not aligned, and over itself
    assert memory[32:52].view(np.float32).tolist() == [1, 1, 2, 3, 4]
    small = raw.convolve(x_at(region, 0, 16), at(region, 32, 8))
    assert np.frombuffer(small.output.data, np.float32).tolist() == [1, 2, 3, 4]
    kernel = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=(1, 1, 1), place=at(region, 4, 4))
    assert np.frombuffer(raw.convolve(x_at(region, 0, 16), None, kernel).output.data, np.float32)[1] == 4
    for source, output, field in (
        (x_at(region, 0, 12), None, "input.place.byte_size"),
        (x_at(region, 248, 16), None, "input.place.byte_size"),
        (x_at(region, 256, 16), None, "input.place.offset"),
        (x_at(region, -4, 16), None, "input.place.offset"),
        (x_at(region, 2**62, 16), None, "input.place.offset"),
        (x_at(region, 0, 16), at(region, 248, 16), "output_place.byte_size"),
        (x_at(region, 0, 16), at(region, -1, 16), "output_place.offset"),
        (x_at(region, 0, 2**40, (1, 1, 2**38)), None, "input.place.byte_size"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            raw.convolve(source, output)
        assert caught.value.field == field
    with pytest.raises(NotFoundError):
        raw.convolve(x_at("device-" + "0" * 32, 0, 16))
    raw.unregister(region)
    raw.unregister(region)
    with pytest.raises(NotFoundError, match="shared_memory_region"):
        raw.convolve(x_at(region, 0, 16))
    gc.collect()
    assert not cupy.ipc.open


def test_a_region_unregistered_during_a_request_ends_with_it(library, cupy, sharing, near, monkeypatch):
    raw = Raw(near)
    memory = library.allocate(256)
    memory[:16].view(np.float32)[:] = [1, 2, 3, 4]
    region = raw.register_device(cupy.ipc.share(memory), UUID, 256)
    run = LocalExecutor.run

    def meanwhile(self, tasks, **options):
        raw.unregister(region)
        gc.collect()
        assert cupy.ipc.open
        return run(self, tasks, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "run", meanwhile)
        answer = raw.convolve(x_at(region, 0, 16), at(region, 64, 16))
    assert answer.output.HasField("place")
    assert memory[64:80].view(np.float32).tolist() == [1, 2, 3, 4]
    gc.collect()
    assert not cupy.ipc.open


def test_what_cannot_be_registered(library, cupy, host, near):
    raw = Raw(near)
    handle = cupy.ipc.share(library.allocate(256))
    for wrong, uuid, size, field in (
        (handle[1:], UUID, 256, "handle"),
        (bytes(64), UUID, 256, "handle"),
        (handle, UUID, 257, "handle"),
        (handle, UUID, 0, "byte_size"),
        (handle, UUID, -1, "byte_size"),
        (handle, UUID[1:], 256, "device_uuid"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            raw.register_device(wrong, uuid, size)
        assert caught.value.field == field
    with pytest.raises(FailedPreconditionError, match="does not see that device"):
        raw.register_device(handle, UUID[::-1], 256)
    host.client_device_memory.capacity = 255
    with pytest.raises(ResourceExhaustedError):
        raw.register_device(handle, UUID, 256)
    assert not host.client_device_memory.regions()


def test_without_leave_nothing_is_opened(library, cupy):
    config = Config(port=0, executor="local", threads=1, engine="cpu")
    with Server(config) as server, groupconv.connect(server.address, timeout=60) as client:
        with pytest.raises(FailedPreconditionError, match="--allow-shared-memory"):
            Raw(client).register_device(cupy.ipc.share(library.allocate(256)), UUID, 256)
        with pytest.raises(FailedPreconditionError, match="--allow-shared-memory"):
            Raw(client).convolve(x_at("device-" + "0" * 32, 0, 16))
        with pytest.raises(FailedPreconditionError, match="--allow-shared-memory"):
            Raw(client).unregister("device-" + "0" * 32)
    gc.collect()
    assert not cupy.ipc.open
