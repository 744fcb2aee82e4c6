"""Runs on the device, captured as CUDA graphs. A whole network is one graph: copies in, all launches, copies out."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.errors import is_sticky
from groupconv_worker.cuda.graphs.capture import CapturedGraph, GraphStream
from groupconv_worker.cuda.network.lowering import DeviceWork
from groupconv_worker.graph.graph import Tensor

log = logging.getLogger(__name__)

ALIGNMENT = 512
"""Temporary arrays of a launch begin at multiples of so many bytes, as those of CuPy's pool do."""


class DeviceCode(NamedTuple):
    """What runs on the device: launches, and the tensors that they read and write.

    Attributes:
        launches: in order.
        inputs: tensors that are copied to the device before the first launch, in order.
        outputs: tensors that are copied to the host after the last launch, in order.
        arena_bytes: of the device memory that the tensors of one run share.
        views: from an arena, (arena_bytes,) uint8 on the device, to the array of each tensor by its name.
    """

    launches: Sequence[DeviceWork]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    arena_bytes: int
    views: Callable[[Any], Mapping[str, Any]]


class Workspace:
    """The temporary arrays of launches. Launches run one after another, so all of them use the same bytes.

    The first run measures how many bytes the largest launch needs. From the second run on they are one block.

    Args:
        cupy: the module.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy, self._most, self._used = cupy, 0, 0
        self._block: Any = None
        self._outer: Callable[[int], Any] | None = None

    def begin(self) -> None:
        """Begin a run: its memory comes from the current allocator of this thread."""
        self._outer = self._cupy.cuda.get_allocator()
        self._block = self._cupy.cuda.alloc(self._most) if self._most else None

    def launch(self, work: Callable[[], None]) -> None:
        """Do one launch, with its temporary arrays in the workspace."""
        self._used = 0
        with self._cupy.cuda.using_allocator(self._malloc):
            work()
        self._most = max(self._most, self._used)

    def end(self) -> None:
        """End a run. A graph that was captured from it keeps the memory."""
        self._block = None

    def _malloc(self, size: int) -> Any:
        start = self._used
        self._used += -(-size // ALIGNMENT) * ALIGNMENT
        if self._block is not None and self._used <= self._most:
            return self._block + start
        assert self._outer is not None, "begin() comes first"
        return self._outer(size)


class Recording(ABC):
    """The buffers of one run at a time, and the graphs that were captured with them.

    Args:
        device: the current one.
        code: what a run does.

    Attributes:
        parts, used: see `graphs.cache.Cacheable`.
    """

    used = 0

    def __init__(self, device: Device, code: DeviceCode) -> None:
        self._device, self._code = device, code
        self._inputs, self._outputs = (
            {tensor.name: device.pinned_array(tensor.shape, tensor.dtype) for tensor in tensors}
            for tensors in (code.inputs, code.outputs)
        )
        self.parts = {id(array): array.nbytes for array in (*self._inputs.values(), *self._outputs.values())}

    @property
    @abstractmethod
    def recorded(self) -> bool:
        """Whether runs launch graphs."""

    @abstractmethod
    def record(self) -> None:
        """Run once on whatever the input buffers hold, then capture a second run.

        Work that cannot be captured goes on to run launch by launch.

        Raises:
            cupy.cuda.memory.OutOfMemoryError: there is no room for the arena.
            DeviceLostError: the device failed.
        """

    @abstractmethod
    def forget_graph(self) -> None:
        """Drop the graphs, as there is no memory for them: run launch by launch from now on."""

    def _captured(self, work: Callable[[], None], stream: GraphStream, *, transforms: bool) -> CapturedGraph | None:
        """Run some work once and capture it; None if it cannot be captured. Adds the graph's memory to `parts`.

        Raises: as `record`.
        """
        device = self._device
        try:
            graph = device.graphs.capture(work, wait=True, transforms=transforms, stream=stream)
        except device.cupy.cuda.memory.OutOfMemoryError:
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and is_sticky(device.cupy, error):
                raise
            log.info("a network runs launch by launch, as it cannot be captured: %s", error)
            return None
        assert graph is not None, "it waits for other captures"
        self.parts |= graph.parts
        return graph

    @staticmethod
    def _launch(launch: DeviceWork, views: Mapping[str, Any], workspace: Workspace) -> None:
        """Put one launch on the current stream."""
        if launch.transforms:  # plans of cuFFT keep their work area from one launch to the next
            launch.run(views)
        else:
            workspace.launch(partial(launch.run, views))

    def _copy_in(self, views: Mapping[str, Any]) -> None:
        """Copy the inputs to the device."""
        runtime = self._device.cupy.cuda.runtime
        for name, host in self._inputs.items():
            self._copy(views[name].data.ptr, host.ctypes.data, host.nbytes, runtime.memcpyHostToDevice)

    def _copy_out(self, views: Mapping[str, Any]) -> None:
        """Copy the outputs to the host."""
        runtime = self._device.cupy.cuda.runtime
        for name, host in self._outputs.items():
            self._copy(host.ctypes.data, views[name].data.ptr, host.nbytes, runtime.memcpyDeviceToHost)

    def _copy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        cuda = self._device.cupy.cuda
        if nbytes:
            cuda.runtime.memcpyAsync(to, source, nbytes, kind, cuda.get_current_stream().ptr)


class NetworkRecording(Recording):
    """Runs of a whole network: one graph.

    Args:
        device: as of `Recording`.
        code: as of `Recording`.
    """

    def __init__(self, device: Device, code: DeviceCode) -> None:
        super().__init__(device, code)
        self._workspace = Workspace(device.cupy)
        self._graph: CapturedGraph | None = None
        self._stream: Any = None

    @property
    def recorded(self) -> bool:
        """Whether a run is the launch of one graph."""
        return self._graph is not None

    def record(self) -> None:
        """As of `Recording`."""
        stream = self._device.next_graph_stream()
        transforms = any(launch.transforms for launch in self._code.launches)
        self._graph, self._stream = self._captured(self._work, stream, transforms=transforms), stream.stream

    def forget_graph(self) -> None:
        """As of `Recording`."""
        self._graph = None

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Copy the inputs, run, and copy the outputs."""
        for name, host in self._inputs.items():
            self._device.copy(host, inputs[name])
        if self._graph is not None:
            self._graph.launch(self._stream)
            self._stream.synchronize()
        else:
            with self._device.streams():  # they are done when it is left
                self._work()
        for name, host in self._outputs.items():
            self._device.copy(outputs[name], host)

    def seconds(self, inputs: Mapping[str, Array]) -> dict[str, float]:
        """Run launch by launch, each timed on the device: the seconds of each node, by its first output."""
        cuda, by_node = self._device.cupy.cuda, dict[str, float]()
        launches = self._code.launches
        for name, host in self._inputs.items():
            self._device.copy(host, inputs[name])
        with self._device.streams() as streams:
            events = [cuda.Event() for _ in range(len(launches) + 1)]
            self._work(lambda number: events[number].record(streams.compute))
            streams.synchronize()
            for number, launch in enumerate(launches):
                spent = float(cuda.get_elapsed_time(events[number], events[number + 1])) / 1e3
                by_node[launch.node] = by_node.get(launch.node, 0.0) + spent
        return by_node

    def _work(self, before: Callable[[int], None] = lambda _: None) -> None:
        """Put a run on the current stream.

        Args:
            before: called with the number of each launch ahead of it, and with their count behind the last.
        """
        cupy = self._device.cupy
        views = self._code.views(cupy.empty(max(1, self._code.arena_bytes), np.uint8))
        self._workspace.begin()
        self._copy_in(views)
        for number, launch in enumerate(self._code.launches):
            before(number)
            self._launch(launch, views, self._workspace)
        before(len(self._code.launches))
        self._copy_out(views)
        self._workspace.end()
