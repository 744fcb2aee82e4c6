"""Eight emulated GPUs and the local executor: places, and eight callers whose arrays stay where they lie."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from on_device import SHAPE, SPEC, W, expected, image, on_device

import groupconv
from emulation import needs_compiler
from emulation.libcuda import as_libcuda
from emulation.stand_in import as_cupy
from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_worker.cuda.ipc import DeviceTensor

pytestmark = [needs_compiler, pytest.mark.slow]
GPUS, CALLS = 8, 6


@pytest.fixture(scope="module")
def library():
    with as_cupy(devices=GPUS) as cupy, as_libcuda(cupy.ipc) as library:
        yield library


@pytest.fixture(scope="module", params=[1, 16], ids="threads {}".format)
def sharing(library, request):
    config = Config(port=0, executor="local", threads=request.param, engine="cuda", shared_memory=True)
    with Server(config) as server:
        server.background.stop()
        yield server


def test_each_gpu_has_one_worker(sharing):
    workers = sharing.executor.describe()
    assert [worker.device.rpartition(", ")[2] for worker in workers] == [f"GPU {i}" for i in range(GPUS)]
    assert [gpu.ordinal for gpu in sharing.executor.gpus.values()] == list(range(GPUS))
    assert len({id(gpu.pool) for gpu in sharing.executor.gpus.values()}) == GPUS
    assert len({id(gpu.kernels) for gpu in sharing.executor.gpus.values()}) == GPUS


def test_eight_callers_at_once_stay_on_their_gpus(library, sharing, seen):
    """The emulation refuses memory, a stream or a pool of another device than the current one."""

    def call(device: int) -> None:
        with groupconv.connect(sharing.address, timeout=120, shared_memory=True) as client:
            for i in range(CALLS):
                x = on_device(library, image(device + i), device=device)
                out = on_device(library, np.zeros(SHAPE, np.float32), device=device)
                client.convolve(x, W, spec=SPEC, out=out)
                np.testing.assert_array_equal(out.array, expected(image(device + i)))

    with ThreadPoolExecutor(GPUS) as pool:
        list(pool.map(call, range(GPUS)))
    assert Counter(task.worker for task in seen) == {f"local-{device}": CALLS for device in range(GPUS)}
    for task in seen:
        assert type(task.x) is type(task.out) is DeviceTensor
        assert {task.x.device.ordinal, task.out.device.ordinal} == {int(task.worker.removeprefix("local-"))}


def test_a_layer_runs_where_its_input_is(library, sharing, near, seen):
    with near.load_layer("tests/eight", W, None, SPEC) as layer:
        for _ in range(3):  # launched, captured, by the graph
            for device in reversed(range(GPUS)):
                y = layer(on_device(library, image(device), device=device))
                np.testing.assert_array_equal(y, expected(image(device)))
    assert [task.worker for task in seen] == [f"local-{device}" for device in reversed(range(GPUS))] * 3


def test_host_arrays_go_to_any_of_them(sharing, near, seen):
    for i in range(GPUS):
        np.testing.assert_array_equal(near.convolve(image(i), W, spec=SPEC), expected(image(i)))
    assert {task.worker for task in seen} <= {f"local-{device}" for device in range(GPUS)}
