"""Two emulated GPUs and one server with the local executor: arrays stay on the GPU where they are."""

import numpy as np
import pytest
from on_device import SHAPE, SPEC, W, expected, image, on_device

from emulation import needs_compiler
from emulation.libcuda import as_libcuda
from emulation.stand_in import as_cupy
from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.ipc import DeviceTensor

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def library():
    with as_cupy(devices=2) as cupy, as_libcuda(cupy.ipc) as library:
        yield library


@pytest.fixture(scope="module")
def sharing(library):
    config = Config(port=0, executor="local", threads=1, engine="cuda", shared_memory=True)
    with Server(config) as server:
        server.background.stop()  # what `seen` sees is what tests send
        yield server


def test_there_is_a_worker_for_each_gpu(sharing):
    workers = sharing.executor.describe()
    assert [worker.device.rpartition(", ")[2] for worker in workers] == ["GPU 0", "GPU 1"]
    assert [gpu.ordinal for gpu in sharing.executor.gpus.values()] == [0, 1]


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("into", [None, 0, 1])
def test_a_call_runs_where_its_input_is(library, near, seen, device, into):
    x = on_device(library, image(device), device=device)
    out = None if into is None else on_device(library, np.zeros(SHAPE, np.float32), device=into)
    y = near.convolve(x, W, spec=SPEC, out=out)
    np.testing.assert_array_equal(y if into is None else out.array, expected(image(device)))
    (task,) = seen
    assert task.worker == f"local-{device}"
    assert type(task.x) is DeviceTensor
    assert task.x.device.ordinal == device
    # the host gets an output for itself, or for the other device
    assert type(task.out) is (DeviceTensor if into == device else np.ndarray)


@pytest.mark.parametrize("device", [0, 1])
def test_a_call_with_a_host_input_runs_where_its_output_is(library, near, seen, device):
    out = on_device(library, np.zeros(SHAPE, np.float32), device=device)
    near.convolve(image(5), W, spec=SPEC, out=out)
    np.testing.assert_array_equal(out.array, expected(image(5)))
    assert [(task.worker, type(task.out)) for task in seen] == [(f"local-{device}", DeviceTensor)]


def test_layers_run_on_both_and_host_inputs_on_either(library, near, seen):
    with near.load_layer("tests/two", W, None, SPEC) as layer:
        for _ in range(3):
            for device in (1, 0):
                x = on_device(library, image(7), device=device)
                np.testing.assert_array_equal(layer(x), expected(image(7)))
                np.testing.assert_array_equal(layer(image(8)), expected(image(8)))
    assert [task.worker for task in seen if type(task.x) is DeviceTensor] == ["local-1", "local-0"] * 3


def test_a_busy_gpu_s_arrays_are_not_moved_to_an_idle_one(library, sharing, near, monkeypatch):
    """Host arrays go to another worker if the one that was planned is busy; these may not."""
    busy = sharing.executor._workers["local-1"].runtime
    monkeypatch.setattr(type(busy.budget), "inside", property(lambda self: int(self is busy.budget)))
    used, prepare = [], CudaEngine.prepare
    monkeypatch.setattr(
        CudaEngine, "prepare", lambda self, *a, **k: used.append(self.gpu.ordinal) or prepare(self, *a, **k)
    )
    np.testing.assert_array_equal(
        near.convolve(on_device(library, image(9), device=1), W, spec=SPEC), expected(image(9))
    )
    assert used == [1]
