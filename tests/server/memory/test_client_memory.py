"""Tensors in the memory of clients: in place where that is possible, else copied."""

from multiprocessing.shared_memory import SharedMemory as Object

import numpy as np
import pytest

from emulation.stand_in import as_cupy
from groupconv.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from groupconv.v1 import tensor_pb2
from groupconv_server.memory.client_memory import ClientMemory, RegionReference
from groupconv_server.memory.cuda_memory import CudaMemory
from groupconv_server.memory.shared_memory import SharedMemory
from groupconv_server.servicers.regions import RequestTensors
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.ipc import DeviceTensor
from groupconv_worker.cuda.options import CudaOptions

ME, OTHER = "ipv4:127.0.0.1:1", "ipv4:127.0.0.1:2"
F32 = np.dtype(np.float32)


@pytest.fixture
def host():
    memory = SharedMemory(gone=lambda owners: set())
    yield memory
    memory.close()


@pytest.fixture
def cupy():
    with as_cupy() as module:
        yield module


@pytest.fixture
def device(cupy):
    memory = CudaMemory(gone=lambda owners: set())
    yield memory
    memory.close()


@pytest.fixture
def theirs(host):
    shared = Object(create=True, size=4096)
    host.register("host", shared.name, 0, 4096, owner=ME)
    yield np.frombuffer(shared.buf, np.uint8)
    host.unregister("host")
    shared.unlink()


def test_host_tensors_are_used_in_place_where_they_are_aligned(host, theirs):
    memory = ClientMemory(host, CudaMemory(gone=lambda owners: set()))
    for offset, seen in ((8, [1, 2]), (33, [0, 0])):
        x = memory.array(RegionReference("host", offset, 8), F32, (2,), owner=OTHER)
        theirs[offset : offset + 8] = np.array([1, 2], np.float32).view(np.uint8)
        np.testing.assert_array_equal(x, seen)
    assert host.regions("host")[0].owner == OTHER
    memory.device.close()


@pytest.mark.parametrize(("offset", "reads", "in_place"), [(0, 64, True), (1, 64, False), (0, 4, False)])
def test_host_outputs_are_copied_where_they_are_unaligned_or_overlap_an_input(host, theirs, offset, reads, in_place):
    memory = ClientMemory(host, CudaMemory(gone=lambda owners: set()))
    x = memory.array(RegionReference("host", reads, 8), F32, (2,))
    output = memory.output(RegionReference("host", offset, 8), F32, (2,), [x])
    output.array[...] = [5, 6]
    assert (theirs[offset : offset + 8].any()) == in_place
    output.store()
    np.testing.assert_array_equal(theirs[offset : offset + 8].copy().view(np.float32), [5, 6])
    assert memory.output(RegionReference("host", 0, 7), F32, (2,), []) is None
    memory.device.close()


def test_an_output_is_stored_though_its_region_is_unregistered_meanwhile(cupy, host, device):
    memory, theirs = ClientMemory(host, device), np.zeros(64, np.uint8)
    device.register("device", cupy.ipc.share(theirs), 0, 64, owner=ME)
    output = memory.output(RegionReference("device", 16, 12), F32, (3,), [])
    device.unregister_all(ME)
    output.array[...] = [1, 2, 3]
    output.store()
    np.testing.assert_array_equal(theirs[16:28].view(np.float32), [1, 2, 3])


def test_tensors_stay_on_the_device_that_this_process_computes_on(cupy, host, device):
    memory, theirs = ClientMemory(host, device), np.zeros(64, np.uint8)
    theirs[16:28] = np.array([1, 2, 3], np.float32).view(np.uint8)
    device.register("device", cupy.ipc.share(theirs), 0, 64, owner=ME)
    at = RegionReference("device", 16, 12)
    np.testing.assert_array_equal(memory.array(at, F32, (3,)), [1, 2, 3])
    device.in_place = {0: Device(cupy, CudaOptions())}
    x = memory.array(at, F32, (3,))
    assert isinstance(x, DeviceTensor)
    assert isinstance(memory.array(at, F32, (3,), in_place=False), np.ndarray)
    assert isinstance(memory.array(RegionReference("device", 20, 8), F32, (2,)), np.ndarray)  # not aligned for kernels
    assert memory.output(at, F32, (3,), [x]).copy is not None
    assert memory.output(RegionReference("device", 32, 12), F32, (3,), [x]).copy is None


@pytest.mark.parametrize("region", ["host", "device"])
def test_tensors_with_channels_last(cupy, host, device, theirs, region):
    memory, ours = ClientMemory(host, device), np.zeros(4096, np.uint8)
    device.register("device", cupy.ipc.share(ours), 0, 4096, owner=ME)
    bytes_of = {"host": theirs, "device": ours}[region]
    last = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)  # (N, H, W, C)
    bytes_of[16:112] = last.reshape(-1).view(np.uint8)
    at = RegionReference(region, 16, 96, channels_last=True)
    x = memory.array(at, F32, (2, 3, 2, 2))
    np.testing.assert_array_equal(x, np.moveaxis(last, -1, 1))
    assert x.flags.c_contiguous
    output = memory.output(at, F32, (2, 3, 2, 2), [x])
    output.array[...] = x + 1
    output.store()
    np.testing.assert_array_equal(bytes_of[16:112].copy().view(np.float32), last.reshape(-1) + 1)
    assert memory.output(RegionReference(region, 0, 95, channels_last=True), F32, (2, 3, 2, 2), []) is None
    device.in_place = {0: Device(cupy, CudaOptions())}
    there = memory.array(at, F32, (2, 3, 2, 2))
    assert isinstance(there, DeviceTensor) == (region == "device")
    assert there.shape == (2, 3, 2, 2)
    if region == "device":
        assert memory.output(at, F32, (2, 3, 2, 2), [there]).copy is not None  # where the input is
        assert (
            memory.output(RegionReference(region, 512, 96, channels_last=True), F32, (2, 3, 2, 2), [there]).copy is None
        )


def test_few_axes_have_no_channels_last():
    class Context:
        def peer(self):
            return ME

    place = tensor_pb2.Place(region="host", byte_size=24, channels_last=True)
    message = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2, 3], place=place)
    with pytest.raises(InvalidArgumentError, match=r"input\.place\.channels_last: expected 3 axes or more, got 2"):
        RequestTensors(ClientMemory(), Context()).tensor(message, "input")


def test_a_name_means_the_region_on_the_host_first(cupy, host, device, theirs):
    memory = ClientMemory(host, device)
    device.register("host", cupy.ipc.share(np.ones(64, np.uint8)), 0, 64, owner=ME)
    assert not memory.on_device("host")
    assert memory.array(RegionReference("host", 0, 4), F32, (1,)).tolist() == [0]
    host.unregister("host")
    assert memory.on_device("host")
    with pytest.raises(NotFoundError, match="'none'"):
        memory.array(RegionReference("none", 0, 12), F32, (3,))
    with pytest.raises(InvalidArgumentError, match="shared_memory_byte_size"):
        memory.output(RegionReference("host", 0, 65), F32, (3,), [])


def test_memory_that_is_not_allowed_is_refused():
    with pytest.raises(FailedPreconditionError, match="--allow-shared-memory"):
        ClientMemory().array(RegionReference("a", 0, 4), F32, (1,))
