"""Device memory that clients register: the host code on the emulated device, and two processes on a real one."""

import gc
import subprocess
import sys
import textwrap

import grpc
import numpy as np
import pytest

import groupconv
from emulation.stand_in import as_cupy
from groupconv import ConvSpec
from groupconv.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from groupconv_server.config import Config
from groupconv_server.inference.v2 import infer_pb2, service_pb2_grpc, shared_memory_pb2
from groupconv_server.memory.cuda_memory import CudaMemory
from groupconv_server.server import Server
from groupconv_worker.cuda.engine import why_unavailable

ME = "ipv4:127.0.0.1:1"


@pytest.fixture
def cupy():
    with as_cupy() as module:
        yield module


@pytest.fixture
def here():
    memory = CudaMemory(gone=lambda owners: set())
    yield memory
    memory.close()


def test_tensors_are_copied_from_and_to_the_device(cupy, here):
    theirs = np.zeros(64, np.uint8)
    here.register("a", cupy.ipc.share(theirs), 0, 64, owner=ME)
    theirs[8:32] = np.arange(6, dtype=np.float32).view(np.uint8)
    x = np.empty((2, 3), np.float32)
    here.part("a", 8, 24).memory.read(8, x)
    np.testing.assert_array_equal(x, [[0, 1, 2], [3, 4, 5]])
    here.part("a", 40, 24).memory.write(40, x.T)
    np.testing.assert_array_equal(theirs[40:].view(np.float32), [0, 3, 1, 4, 2, 5])


@pytest.mark.parametrize(
    ("handle", "device", "size", "field"),
    [
        (b"x" * 63, 0, 8, "raw_handle"),
        (b"x" * 64, 0, 8, "raw_handle"),
        (None, 1, 8, "device_id"),
        (None, -1, 8, "device_id"),
        (None, 0, 65, "raw_handle"),
        (None, 0, 0, "byte_size"),
        (None, 0, 2**63, "byte_size"),
    ],
)
def test_what_cannot_be_opened_is_refused_and_nothing_stays_open(cupy, here, handle, device, size, field):
    here.capacity = 2**64
    theirs = np.zeros(64, np.uint8)
    with pytest.raises(InvalidArgumentError) as caught:
        here.register("a", handle or cupy.ipc.share(theirs), device, size, owner=ME)
    assert caught.value.field == field
    del caught
    gc.collect()
    assert not cupy.ipc.open


def test_parts_outside_the_region_are_refused_though_the_allocation_goes_on(cupy, here):
    here.register("a", cupy.ipc.share(np.zeros(64, np.uint8)), 0, 32, owner=ME)
    with pytest.raises(InvalidArgumentError, match="shared_memory_byte_size"):
        here.part("a", 8, 28)
    with pytest.raises(InvalidArgumentError, match="shared_memory_offset"):
        here.part("a", 32, 1)
    with pytest.raises(NotFoundError):
        here.part("b", 0, 4)


def test_an_allocation_is_closed_when_its_last_request_has_ended(cupy, here):
    here.register("a", cupy.ipc.share(np.zeros(64, np.uint8)), 0, 64, owner=ME)
    running = here.part("a", 0, 64).memory
    here.unregister_all(ME)
    gc.collect()
    assert cupy.ipc.open
    running.write(0, np.ones(4, np.uint8))
    del running
    gc.collect()
    assert not cupy.ipc.open


def test_without_a_gpu_it_says_so(here):
    if not why_unavailable():
        pytest.skip("there is a GPU")
    with pytest.raises(UnimplementedError, match="needs a GPU"):
        here.register("a", b"x" * 64, 0, 8, owner=ME)


@pytest.mark.gpu
def test_a_client_process_shares_its_device_memory():
    client = """
        import sys, cupy
        x = cupy.arange(24, dtype=cupy.float32)
        y = cupy.zeros(24, dtype=cupy.float32)
        cupy.cuda.Device().synchronize()
        for a in (x, y):
            print(cupy.cuda.runtime.ipcGetMemHandle(a.data.mem.ptr).hex(), a.data.ptr - a.data.mem.ptr, flush=True)
        sys.stdin.readline()
        assert (y == 2 * x).all()
    """
    config = Config(port=0, executor="local", threads=1, shared_memory=True)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(client)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with (
        process,
        Server(config) as server,
        groupconv.connect(server.address, timeout=60) as sdk,
        grpc.insecure_channel(server.address) as channel,
    ):
        sdk.load_layer("double", np.full((3, 1, 1), 2, np.float32), spec=ConvSpec(groups=3))
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = infer_pb2.ModelInferRequest(model_name="double")
        tensors = (request.inputs.add(name="x", datatype="FP32", shape=[2, 3, 4]), request.outputs.add(name="y"))
        for tensor in tensors:
            handle, offset = process.stdout.readline().split()
            register = shared_memory_pb2.CudaSharedMemoryRegisterRequest(
                name=tensor.name, raw_handle=bytes.fromhex(handle), device_id=0, byte_size=96 + int(offset)
            )
            stub.CudaSharedMemoryRegister(register, timeout=60)
            tensor.parameters["shared_memory_region"].string_param = tensor.name
            tensor.parameters["shared_memory_byte_size"].int64_param = 96
            tensor.parameters["shared_memory_offset"].int64_param = int(offset)
        stub.ModelInfer(request, timeout=60)
        process.communicate("done\n", timeout=60)
        assert process.returncode == 0
