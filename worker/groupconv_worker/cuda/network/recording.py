"""Runs on the device, recorded as CUDA graphs. That of a whole network is one: copies in, all launches, copies out."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.errors import is_sticky
from groupconv_worker.cuda.graphs.capture import CapturedGraph, GraphStream
from groupconv_worker.cuda.network.lowering import Launch
from groupconv_worker.graph.graph import Tensor

log = logging.getLogger(__name__)

ALIGNMENT = 512
"""Bytes that temporary arrays of a launch begin at multiples of, as those of CuPy's pool do."""


class Workspace:
    """The temporary arrays of launches. Launches follow one another, so that all of them use the same bytes.

    The first run finds out how many bytes the largest launch needs; from the second on they are one block.

    Args:
        cupy: the module.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy, self._most, self._used = cupy, 0, 0
        self._block: Any = None
        self._outer: Callable[[int], Any] | None = None

    def begin(self) -> None:
        """A run begins: memory comes from the current allocator of this thread."""
        self._outer = self._cupy.cuda.get_allocator()
        self._block = self._cupy.cuda.alloc(self._most) if self._most else None

    def launch(self, work: Callable[[], None]) -> None:
        """Do one launch whose arrays lie here."""
        self._used = 0
        with self._cupy.cuda.using_allocator(self._malloc):
            work()
        self._most = max(self._most, self._used)

    def end(self) -> None:
        """The run ended; a graph that was captured meanwhile has the memory."""
        self._block = None

    def _malloc(self, size: int) -> Any:
        start = self._used
        self._used += -(-size // ALIGNMENT) * ALIGNMENT
        if self._block is not None and self._used <= self._most:
            return self._block + start
        assert self._outer is not None, "begin() comes first"
        return self._outer(size)


class Recording(ABC):
    """The memory of one run at a time, and its graphs.

    Args:
        device: where; the current one.
        launches: in order.
        inputs, outputs: what is copied, in order.
        arena_bytes: of the device memory that the tensors share.
        views: makes device arrays of an arena, by name.

    Attributes:
        parts, used: see `graphs.cache.Cacheable`.
    """

    used = 0

    def __init__(
        self,
        device: Device,
        launches: Sequence[Launch],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        arena_bytes: int,
        views: Callable[[Any], Mapping[str, Any]],
    ) -> None:
        self._device, self._launches, self._views = device, launches, views
        self._arena_bytes, self._workspace = arena_bytes, Workspace(device.cupy)
        self._inputs, self._outputs = (
            {tensor.name: device.pinned_array(tensor.shape, tensor.dtype) for tensor in tensors}
            for tensors in (inputs, outputs)
        )
        self.parts = {id(array): array.nbytes for array in (*self._inputs.values(), *self._outputs.values())}

    @property
    @abstractmethod
    def recorded(self) -> bool:
        """Whether all that can be is recorded."""

    @abstractmethod
    def record(self) -> None:
        """Run once with whatever the inputs are, and capture the second run. What cannot be captured stays as it is.

        Raises:
            cupy.cuda.memory.OutOfMemoryError: there is no room for the arena.
            DeviceLostError: the device failed.
        """

    @abstractmethod
    def forget_graph(self) -> None:
        """Run launch by launch from now on: there is no memory for graphs."""

    def _captured(self, work: Callable[[], None], stream: GraphStream, *, transforms: bool) -> CapturedGraph | None:
        """The graph of some work, which runs once; None if it cannot be captured. Its memory is among the parts.

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
    def _launch(launch: Launch, views: Mapping[str, Any], workspace: Workspace) -> None:
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
    """The memory of runs of a whole network, one at a time, and its graph.

    Args: as of `Recording`.

    Raises: as of `Recording`.
    """

    _graph: Any = None
    _stream: Any = None

    @property
    def recorded(self) -> bool:
        """Whether a run is the launch of one graph."""
        return self._graph is not None

    def record(self) -> None:
        """As of `Recording`."""
        stream = self._device.next_graph_stream()
        transforms = any(launch.transforms for launch in self._launches)
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
        """Run launch by launch and time each on the device: seconds by the first output of its node."""
        cuda, found = self._device.cupy.cuda, dict[str, float]()
        for name, host in self._inputs.items():
            self._device.copy(host, inputs[name])
        with self._device.streams() as streams:
            events = [cuda.Event() for _ in range(len(self._launches) + 1)]
            self._work(lambda number: events[number].record(streams.compute))
            streams.synchronize()
            for number, launch in enumerate(self._launches):
                spent = float(cuda.get_elapsed_time(events[number], events[number + 1])) / 1e3
                found[launch.node] = found.get(launch.node, 0.0) + spent
        return found

    def _work(self, before: Callable[[int], None] = lambda _: None) -> None:
        """Put a run on the current stream.

        Args:
            before: called ahead of each launch with its number, and once behind the last.
        """
        cupy = self._device.cupy
        views = self._views(cupy.empty(max(1, self._arena_bytes), np.uint8))
        self._workspace.begin()
        self._copy_in(views)
        for number, launch in enumerate(self._launches):
            before(number)
            self._launch(launch, views, self._workspace)
        before(len(self._launches))
        self._copy_out(views)
        self._workspace.end()
