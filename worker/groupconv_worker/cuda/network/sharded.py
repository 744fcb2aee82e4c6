"""A network that is cut over several GPUs of one process: a part on each, which run at the same time."""

from collections.abc import Mapping, Sequence

from groupconv.gpu.driver import driver
from groupconv_worker.contract import Array
from groupconv_worker.cpu.network.cut import CutNetwork
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.network.exchange import BLOCK, connected
from groupconv_worker.cuda.network.part import DevicePart
from groupconv_worker.cuda.network.segments import WORD, Semaphores, check_values
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.graph.partition.part import SEND
from groupconv_worker.graph.partition.partition import Partition
from groupconv_worker.graph.partition.zones import LINE, zones
from groupconv_worker.job import Job


def cut_over_devices(graph: Graph, choice: CutChoice, engines: Sequence[CudaEngine]) -> "DeviceShardedNetwork":
    """A network that is cut over as many GPUs as there are engines.

    Raises:
        ValueError: it cannot be cut so.
        UnsupportedNodeError, ResourceExhaustedError, DeviceLostError, InternalError: as of `DeviceShardedNetwork`.
    """
    return DeviceShardedNetwork(choice.partition(graph, len(engines), BLOCK), engines)


class DeviceShardedNetwork(CutNetwork):
    """The parts of all GPUs, and the semaphores by which they meet. One run at a time.

    Args:
        made: what each GPU does.
        engines: of the GPUs, a different one each.

    Raises:
        UnsupportedNodeError: a node has no kernel.
        ResourceExhaustedError: a part does not fit into the memory of its GPU.
        DeviceLostError: a device failed; the process must be replaced.
        InternalError: the driver has no streams that wait for values.
    """

    def __init__(self, partition: Partition, engines: Sequence[CudaEngine]) -> None:
        super().__init__(partition)
        check_values(engines)
        graphs, _ = connected(partition)
        self._parts = [DevicePart(graph, engine) for graph, engine in zip(graphs, engines, strict=True)]
        device = engines[0].gpu
        with device.current():
            memory = device.pinned_array((max(1, len(partition.exchanges)) * LINE // WORD.itemsize,), WORD)
            memory[:] = 0
            self._semaphores = Semaphores(memory, driver().on_device(memory.ctypes.data))
        areas = [part.landing for part in self._parts]
        for part, graph in zip(self._parts, graphs, strict=True):
            sent = [(zone, areas[peer]) for peer, several in zones(graph, SEND).items() for zone in several]
            part.connect(self._semaphores, {zone.semaphore: area.data.ptr + zone.landing for zone, area in sent}, {})
        for part in self._parts:
            part.record()

    @property
    def nbytes(self) -> int:
        """Bytes of device memory: weights, an arena, and zones of all parts."""
        return sum(part.nbytes for part in self._parts)

    def compute(self, worker: int, inputs: Mapping[str, Array], number: int, job: Job) -> Mapping[str, Array]:
        """As of `CutNetwork`."""
        return self._parts[worker].run(inputs, number, job)
