"""Runs of one part of a cut network: launches between two meetings with other parts are one CUDA graph, a segment.

A wait inside of a graph would be for the same number in every run. So the meetings are between the graphs: there the
stream waits for the number of the run, or writes it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np

from groupconv.errors import InternalError
from groupconv.gpu.driver import Driver, driver
from groupconv_worker.contract import Array
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.graphs.capture import CapturedGraph, GraphStream
from groupconv_worker.cuda.network.lowering import DeviceWork, Meeting
from groupconv_worker.cuda.network.recording import DeviceCode, Recording, Workspace
from groupconv_worker.graph.partition.zones import LINE
from groupconv_worker.job import Job

WORD = np.dtype(np.int64)
"""The dtype of a semaphore: the number of a run."""


def check_values(engines: Sequence[CudaEngine]) -> None:
    """Refuse GPUs whose streams cannot wait for each other.

    Raises:
        InternalError: the driver has no streams that wait for values of 64 bits.
    """
    for engine in engines:
        if not driver().has_values(engine.gpu.ordinal):
            raise InternalError("CUDA: streams do not wait for values of 64 bits; the driver is older than CUDA 11.7")


class Semaphores:
    """A semaphore of 64 bits for each exchange: the number of the last run whose elements have arrived.

    They are timeline semaphores, as Vulkan calls them, in memory of the host that all devices map.

    Args:
        memory: int64, page-locked, zeros; the first element of each line of `zones.LINE` bytes is a semaphore.
        address: of the memory, on the device.
    """

    def __init__(self, memory: Array, address: int) -> None:
        self._semaphores, self._address = memory[:: LINE // memory.itemsize], address

    def address(self, semaphore: int) -> int:
        """The address of a semaphore on the device, from its offset in bytes."""
        return self._address + semaphore

    @contextmanager
    def releasing(self, run: int, job: Job) -> Iterator[None]:
        """Bracket a run: once its job is over, no part waits any more. Its outputs are wrong then: discard them."""
        lock, inside = threading.Lock(), [True]

        def release() -> None:
            with lock:
                if inside:  # later, the semaphores would be set back from the number of a later run
                    self._semaphores[self._semaphores < run] = run

        try:
            with job.on_stop(release):
                if job.over:  # it may have been over before `release` was registered
                    release()
                yield
        finally:
            with lock:
                inside.clear()


class _Segment:
    """Launches in a row, and the copies at a run's two ends.

    Args:
        work: puts them on the current stream.
        transforms: whether they run plans of cuFFT.
    """

    def __init__(self, work: Callable[[], None], *, transforms: bool) -> None:
        self.work, self.transforms = work, transforms
        self.graph: CapturedGraph | None = None


class PartRecording(Recording):
    """Runs of one part of a cut network: a graph for each segment, with the meetings between them.

    Args:
        device: as of `Recording`.
        code: as of `Recording`; launches with a `meeting` lie between segments.

    Raises:
        ResourceExhaustedError: there is no room for the arena.
    """

    def __init__(self, device: Device, code: DeviceCode) -> None:
        super().__init__(device, code)
        self._arena = device.empty((max(1, code.arena_bytes),), np.dtype(np.uint8))
        self._views = code.views(self._arena)
        self._stream = GraphStream(device.cupy)  # its own: waits on a shared stream would hold up other networks
        self._steps = self._in_steps()
        self.parts[id(self._arena)] = int(self._arena.nbytes)

    @property
    def recorded(self) -> bool:
        """Whether every segment is a graph."""
        return all(step.graph is not None for step in self._steps if isinstance(step, _Segment))

    def record(self) -> None:
        """As of `Recording`, segment by segment; the meetings are left out."""
        for step in self._steps:
            if isinstance(step, _Segment):
                step.graph = self._captured(step.work, self._stream, transforms=step.transforms)
                if step.graph is None:
                    self.forget_graph()
                    return

    def forget_graph(self) -> None:
        """As of `Recording`."""
        for step in self._steps:
            if isinstance(step, _Segment):
                step.graph = None

    def close(self) -> None:
        """Drop the segments, which refer to this object: the reference cycle would keep the arena."""
        self._steps.clear()

    def run(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], semaphores: Semaphores, number: int
    ) -> None:
        """Copy the inputs, run all segments and meetings, and copy the outputs."""
        for name, host in self._inputs.items():
            self._device.copy(host, inputs[name])
        cuda_driver, stream = driver(), self._stream.stream
        with nullcontext() if self.recorded else self._device.streams(), stream:
            try:
                for step in self._steps:
                    if isinstance(step, Meeting):
                        self._meet(cuda_driver, step, semaphores, number)
                    elif step.graph is not None:
                        step.graph.launch(stream)
                    else:
                        step.work()
            finally:
                stream.synchronize()  # ends even in a run that failed: other parts write what it waits for
        for name, host in self._outputs.items():
            self._device.copy(outputs[name], host)

    def _meet(self, cuda_driver: Driver, meeting: Meeting, semaphores: Semaphores, number: int) -> None:
        """Have the stream wait for another part's semaphore, or write this part's."""
        act = cuda_driver.wait_value if meeting.waits else cuda_driver.write_value
        act(self._stream.stream.ptr, semaphores.address(meeting.semaphore), number)

    def _in_steps(self) -> list["_Segment | Meeting"]:
        """Split the launches at their meetings: segments, and the meetings between them."""
        rows = list[list[DeviceWork]]([[]])
        meetings = list[Meeting]()  # one behind each row but the last
        for launch in self._code.launches:
            if launch.meeting is None:
                rows[-1].append(launch)
            else:
                rows.append([])
                meetings.append(launch.meeting)
        steps: list[_Segment | Meeting] = []
        for position, row in enumerate(rows):
            first, last = position == 0, position == len(rows) - 1
            if row or (first and self._inputs) or (last and self._outputs):
                work = partial(self._put, row, Workspace(self._device.cupy), first=first, last=last)
                steps.append(_Segment(work, transforms=any(launch.transforms for launch in row)))
            steps += meetings[position : position + 1]
        return steps

    def _put(self, launches: Sequence[DeviceWork], workspace: Workspace, *, first: bool, last: bool) -> None:
        """Put a segment on the current stream."""
        workspace.begin()
        if first:
            self._copy_in(self._views)
        for launch in launches:
            self._launch(launch, self._views, workspace)
        if last:
            self._copy_out(self._views)
        workspace.end()
