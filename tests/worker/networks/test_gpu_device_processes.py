"""Networks cut over processes with a real device each; if there is one device, they share it. `make test-gpu`."""

import numpy as np
import pytest
from device_networks import small_alexnet, small_resnet
from gpu_processes import Gang, GpuProcess

from groupconv_worker.cuda.engine import CudaEngine, count_devices, why_unavailable
from groupconv_worker.cuda.network.network import DeviceNetwork
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "there is a device"),
]


@pytest.fixture(scope="module")
def workers():
    made = [GpuProcess(device % count_devices()) for device in range(2)]
    yield made
    for worker in made:
        worker.close()


@pytest.mark.parametrize("nodes", [[0, 0], [0, 1]])
@pytest.mark.parametrize(("network", "cut"), [
    (small_resnet, "rows"),
    (small_resnet, "columns"),
    (small_alexnet, "channels"),
])  # fmt: skip
def test_networks_along_each_axis(workers, network, cut, nodes):
    """Two workers as of one node, where CUDA IPC brings the boxes, and as of two, with a link between."""
    data, shape = network()
    gang, engine = Gang(workers, data, shape, cut, nodes), CudaEngine()
    whole = DeviceNetwork(Optimized(read_model(data)).canonical({"x": shape}), engine)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    for scale in (1, -2, 1):
        found, wanted = gang.run(scale * x), whole.run({"x": scale * x})
        for name, want in wanted.items():
            np.testing.assert_allclose(found[name], want, rtol=0, atol=1e-4 * float(np.abs(want).max()))
    gang.drop()
    engine.close()
