"""Two emulated GPUs and one server with the local executor: arrays stay on the GPU where they are."""

import numpy as np
import pytest
from on_device import SHAPE, SPEC, W, expected, image

import groupconv
from emulation import needs_compiler
from emulation.libcuda import OnDevice, as_libcuda
from emulation.stand_in import as_cupy
from groupconv_server.config import Config
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.server import Server
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.ipc import DeviceTensor

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def library():
    with as_cupy(devices=2) as cupy, as_libcuda(cupy.ipc) as library:
        yield library


@pytest.fixture(scope="module")
def server(library):
    config = Config(port=0, executor="local", threads=1, engine="cuda", shared_memory=True)
    with Server(config) as server:
        yield server


@pytest.fixture
def client(server):
    with groupconv.connect(server.address, timeout=60, shared_memory=True) as client:
        yield client


@pytest.fixture
def ran(monkeypatch):
    """Worker, x and out of each task that was run."""
    found = []
    run = LocalExecutor.run

    def watched(self, tasks, **options):
        found.extend((task.worker, task.x, task.out) for task in tasks)
        return run(self, tasks, **options)

    monkeypatch.setattr(LocalExecutor, "run", watched)
    return found


def array(library, x, device):
    memory = library.allocate(x.nbytes, device)
    there = memory.view(x.dtype).reshape(x.shape)
    there[...] = x
    return OnDevice(there, stream=1)


def test_there_is_a_worker_for_each_gpu(server):
    workers = server.executor.describe()
    assert [worker.device.rpartition(", ")[2] for worker in workers] == ["GPU 0", "GPU 1"]
    assert [gpu.ordinal for gpu in server.executor.gpus.values()] == [0, 1]


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("into", [None, 0, 1])
def test_a_call_runs_where_its_input_is(library, client, ran, device, into):
    x = array(library, image(device), device)
    out = None if into is None else array(library, np.zeros(SHAPE, np.float32), into)
    y = client.convolve(x, W, spec=SPEC, out=out)
    np.testing.assert_array_equal(y if into is None else out.array, expected(image(device)))
    ((worker, read, written),) = ran
    assert worker == f"local-{device}"
    assert type(read) is DeviceTensor
    assert read.device.ordinal == device
    # the host gets an output for itself, or for the other device
    assert type(written) is (DeviceTensor if into == device else np.ndarray)


@pytest.mark.parametrize("device", [0, 1])
def test_a_call_with_a_host_input_runs_where_its_output_is(library, client, ran, device):
    out = array(library, np.zeros(SHAPE, np.float32), device)
    client.convolve(image(5), W, spec=SPEC, out=out)
    np.testing.assert_array_equal(out.array, expected(image(5)))
    assert [(worker, type(written)) for worker, _, written in ran] == [(f"local-{device}", DeviceTensor)]


def test_layers_run_on_both_and_host_inputs_on_either(library, client, ran):
    with client.load_layer("tests/two", W, None, SPEC) as layer:
        for _ in range(3):
            for device in (1, 0):
                x = array(library, image(7), device)
                np.testing.assert_array_equal(layer(x), expected(image(7)))
                np.testing.assert_array_equal(layer(image(8)), expected(image(8)))
    assert [worker for worker, x, _ in ran if type(x) is DeviceTensor] == ["local-1", "local-0"] * 3


def test_a_busy_gpu_s_arrays_are_not_moved_to_an_idle_one(library, server, client, ran, monkeypatch):
    """Host arrays go to another worker if the one that was planned is busy; these may not."""
    busy = server.executor._workers["local-1"].runtime
    monkeypatch.setattr(type(busy.budget), "inside", property(lambda self: int(self is busy.budget)), raising=False)
    seen = []
    prepare = CudaEngine.prepare
    monkeypatch.setattr(
        CudaEngine, "prepare", lambda self, *a, **k: seen.append(self.gpu.ordinal) or prepare(self, *a, **k)
    )
    np.testing.assert_array_equal(client.convolve(array(library, image(9), 1), W, spec=SPEC), expected(image(9)))
    assert seen == [1]
