"""Networks on a GPU: their weights stay there, and a run of a whole one is one CUDA graph."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from groupconv.errors import ResourceExhaustedError
from groupconv.text import human_bytes
from groupconv_worker.contract import Array
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.graphs.cache import GraphPool
from groupconv_worker.cuda.network.lowering import CudaLowering
from groupconv_worker.cuda.network.operators import LOWER
from groupconv_worker.cuda.network.recording import DeviceCode, NetworkRecording, Recording
from groupconv_worker.graph.graph import Graph, output_arrays

T = TypeVar("T")
R = TypeVar("R", bound=Recording)


def planned(graph: Graph) -> CudaLowering:
    """The launches of a graph without a device: what they read and write, and the bytes of weights and arena.

    Raises:
        UnsupportedNodeError: naming a node that has no kernel.

    Example:
        >>> import numpy as np
        >>> from groupconv_worker.graph.graph import Node, Tensor
        >>> x, y = (Tensor(name, np.dtype("float32"), (1, 3)) for name in "xy")
        >>> low = planned(Graph(("x",), ("y",), (Node("Relu", ("x",), ("y",)),), {"x": x, "y": y}, {}))
        >>> len(low.launches), low.placed()[1], low.weight_bytes
        (1, 76, 0)
    """
    low = CudaLowering(graph)
    low.run(LOWER)
    return low


def lowered(graph: Graph, engine: CudaEngine) -> CudaLowering:
    """The launches of a graph, with its weights on the device of an engine.

    Raises:
        UnsupportedNodeError: as of `planned`.
        cupy.cuda.memory.OutOfMemoryError: the weights do not fit.
    """
    with engine.gpu.streams():
        low = CudaLowering(graph, engine.gpu, lambda p, w, b: engine.kernel(p, w, b, resident=True))
        low.run(LOWER)
    return low


class DeviceProgram(Generic[R]):
    """A graph on the device of an engine. Its memory is counted before any of it is taken.

    Args:
        graph: with known shapes.
        engine: chooses the algorithms of convolutions.
        kind: of its recordings.
        plan: of the graph, as of `planned`; made if None.

    Attributes:
        arena_bytes: of the device memory that the tensors of a run share.

    Raises:
        UnsupportedNodeError: naming a node that has no kernel.
        ResourceExhaustedError: weights and arena are more than the device memory that is left.
        DeviceLostError: the device failed; the process must be replaced.
    """

    def __init__(self, graph: Graph, engine: CudaEngine, kind: type[R], plan: CudaLowering | None = None) -> None:
        self._device, self._kind = engine.gpu, kind
        plan = plan or planned(graph)
        self._offsets, self.arena_bytes = plan.placed()
        self._check_memory(plan.weight_bytes)
        low = self._with_room(lambda: lowered(graph, engine), plan.weight_bytes)
        # the weights on the host go with the graph
        self._launches, self._kernels, self._weights = low.launches, low.kernels, low.constants
        self._landing, self._routes = low.landing, low.routes
        self._tensors = {name: (tensor, low.root(name)) for name, tensor in low.tensors.items()}
        self._recorded = False
        self._inputs = [graph.tensors[name] for name in graph.inputs]
        self._outputs = [graph.tensors[name] for name in graph.outputs]
        self._constants = {name: graph.constants[name] for name in graph.outputs if name in graph.constants}
        self._pool = GraphPool[R]()

    def _check_memory(self, weights: int) -> None:
        left = self._device.free_bytes()
        if weights + self.arena_bytes > left:
            raise ResourceExhaustedError(
                f"cuda.memory_limit: the network needs {human_bytes(weights + self.arena_bytes)} of device memory "
                f"({human_bytes(weights)} for weights, {human_bytes(self.arena_bytes)} for tensors), "
                f"and {human_bytes(left)} are left"
            )

    def _with_room(self, work: Callable[[], T], nbytes: int) -> T:
        """Do some work that takes so many bytes. While they are not free, drop graphs, which only make runs faster."""
        while True:
            try:
                return work()
            except self._device.cupy.cuda.memory.OutOfMemoryError as error:
                if not self._device.make_room():
                    reason = f"cuda: {human_bytes(nbytes)} for a network do not fit: {error}"
                    raise ResourceExhaustedError(reason) from error

    @property
    def nbytes(self) -> int:
        """Bytes of device memory: weights as the kernels keep them, and one arena."""
        constants = sum(int(array.nbytes) for array in self._weights.values())
        return constants + sum(kernel.nbytes for kernel in self._kernels) + self.arena_bytes

    @property
    def launches(self) -> int:
        """Kernels and convolutions of a run."""
        return len(self._launches)

    def _output_arrays(self, into: Mapping[str, Array] | None) -> dict[str, Array]:
        """Arrays for all outputs, those of constants filled."""
        outputs = output_arrays(self._outputs, into)
        for name, array in self._constants.items():
            outputs[name][...] = array
        return outputs

    def _use(self, work: Callable[[R], T]) -> T:
        """Do some work with a recording that no other thread uses. One whose work fails is not used again."""
        recording = self._pool.take() or self._recording()
        result = work(recording)
        self._pool.put(recording)
        return result

    def _recording(self) -> R:
        """A recording for one more run at a time; with graphs, if their cache has room for its arena."""
        outputs = [tensor for tensor in self._outputs if tensor.name not in self._constants]
        code = DeviceCode(self._launches, self._inputs, outputs, self.arena_bytes, self._views)
        recording = self._kind(self._device, code)
        if self.arena_bytes <= self._device.graph_cache.limit:
            recording.record()
        if recording.recorded and not self._device.graph_cache.admit(self._pool, recording):
            recording.forget_graph()
        self._recorded = recording.recorded
        return recording

    def _views(self, arena: Any) -> dict[str, Any]:
        """Every tensor of the graph, in an arena or among the constants."""
        views = dict[str, Any]()
        for name, (tensor, root) in self._tensors.items():
            if root in self._weights:
                views[name] = self._weights[root].reshape(tensor.shape)
            elif name in self._offsets:
                start = self._offsets[name]
                views[name] = arena[start : start + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
        return views


class DeviceNetwork(DeviceProgram[NetworkRecording]):
    """A whole network on the device of an engine. Safe to call from several threads.

    Args:
        graph: in its canonical form, with known shapes.
        engine: chooses the algorithms of convolutions.
        plan: of the graph, as of `planned`; made if None.

    Raises:
        UnsupportedNodeError, ResourceExhaustedError, DeviceLostError: as of `DeviceProgram`.
    """

    def __init__(self, graph: Graph, engine: CudaEngine, plan: CudaLowering | None = None) -> None:
        super().__init__(graph, engine, NetworkRecording, plan)

    @property
    def what(self) -> str:
        """A description for reports."""
        how = "as one graph" if self._recorded else "one by one"
        return f"the whole network on the GPU, {self.launches} launches {how}"

    def run(self, inputs: Mapping[str, Array], into: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Run it once.

        Args:
            inputs: by name, of the graph's dtypes and shapes.
            into: contiguous arrays to be filled. The others are allocated, as are those that do not fit.

        Returns:
            All outputs by name.

        Raises:
            ResourceExhaustedError: there is no device memory for the arena now.
            DeviceLostError: the device failed; the process must be replaced.
        """
        outputs = self._output_arrays(into)
        with self._device.current():
            self._with_room(lambda: self._use(lambda recording: recording.run(inputs, outputs)), self.arena_bytes)
        return outputs

    def node_seconds(self, inputs: Mapping[str, Array]) -> dict[str, float]:
        """Run it launch by launch: seconds on the device of each node, by its first output."""
        with self._device.current():
            return self._with_room(lambda: self._use(lambda recording: recording.seconds(inputs)), self.arena_bytes)
