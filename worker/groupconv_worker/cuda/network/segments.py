"""Runs of a network's part: its launches between two meetings with other parts are recorded as one CUDA graph each.

A recorded wait would have the same number in every run. So the meetings lie between the graphs: the stream waits for,
and writes, the number of the run.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from groupconv.errors import InternalError
from groupconv.gpu.driver import Driver, driver
from groupconv_worker.contract import Array
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.graphs.capture import CapturedGraph, GraphStream
from groupconv_worker.cuda.network.lowering import Launch, Meeting
from groupconv_worker.cuda.network.recording import Recording, Workspace
from groupconv_worker.graph.graph import Tensor
from groupconv_worker.graph.partition.zones import LINE
from groupconv_worker.job import Job

WORD = np.dtype(np.int64)
"""The dtype of a word: the number of a run."""


def check_values(engines: Sequence[CudaEngine]) -> None:
    """Refuse GPUs whose streams cannot wait for each other.

    Raises:
        InternalError: the driver has no streams that wait for values of 64 bits.
    """
    for engine in engines:
        if not driver().has_values(engine.gpu.ordinal):
            raise InternalError("CUDA: streams do not wait for values of 64 bits; the driver is older than CUDA 11.7")


class Words:
    """A word of 64 bits for each exchange, in memory of the host that devices see: the last run that has brought it.

    Args:
        memory: (lines of `zones.LINE` bytes,) int64, page-locked; zeros. The first word of each line is one.
        address: of the memory, on the device.
    """

    def __init__(self, memory: Array, address: int) -> None:
        self._words, self._address = memory[:: LINE // memory.itemsize], address

    def address(self, word: int) -> int:
        """Where a word is, on the device."""
        return self._address + word

    @contextmanager
    def releasing(self, run: int, job: Job) -> Iterator[None]:
        """Be in a run's job. Once that is over, no part waits any more: what it then makes is wrong, and not taken."""
        lock, inside = threading.Lock(), [True]

        def release() -> None:
            with lock:
                if inside:  # else words of a later run would get an earlier number
                    self._words[self._words < run] = run

        try:
            with job.ending(release):
                if job.over:  # and was before `release` was known
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


class Segments(Recording):
    """The memory of a part's runs, one at a time, and its graphs.

    Args: as of `Recording`.

    Attributes:
        recorded: whether all that lies between meetings are graphs.

    Raises:
        ResourceExhaustedError: there is no room for the arena.
    """

    def __init__(
        self,
        device: Device,
        launches: Sequence[Launch],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        arena_bytes: int,
        views: Callable[[Any], Mapping[str, Any]],
    ) -> None:
        super().__init__(device, launches, inputs, outputs, arena_bytes, views)
        self._arena = device.empty((max(1, arena_bytes),), np.dtype(np.uint8))
        self._at = views(self._arena)
        self._stream = GraphStream(device.cupy)  # a wait on one that is shared would hold up other networks
        self._steps = self._in_steps()
        self.parts[id(self._arena)] = int(self._arena.nbytes)

    @property
    def recorded(self) -> bool:
        """As above."""
        return all(step.graph is not None for step in self._steps if isinstance(step, _Segment))

    def record(self) -> None:
        """As of `Recording`: all segments, without meetings."""
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
        """Let go of what knows this."""
        self._steps.clear()

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], words: Words, number: int) -> None:
        """Copy the inputs, do one run, meeting the other parts, and copy the outputs."""
        for name, host in self._inputs.items():
            self._device.copy(host, inputs[name])
        found, stream = driver(), self._stream.stream
        with nullcontext() if self.recorded else self._device.streams(), stream:
            try:
                for step in self._steps:
                    if isinstance(step, Meeting):
                        self._meet(found, step, words, number)
                    elif step.graph is not None:
                        step.graph.launch(stream)
                    else:
                        step.work()
            finally:
                stream.synchronize()  # whatever a run that failed waits for was sent before, or comes
        for name, host in self._outputs.items():
            self._device.copy(outputs[name], host)

    def _meet(self, found: Driver, meeting: Meeting, words: Words, number: int) -> None:
        """Have the stream wait for another part, or tell it."""
        act = found.wait_value if meeting.waits else found.write_value
        act(self._stream.stream.ptr, words.address(meeting.word), number)

    def _in_steps(self) -> list["_Segment | Meeting"]:
        """Segments, and the meetings between them."""
        rows = list[list[Launch]]([[]])
        meetings = list[Meeting]()  # one behind each row but the last
        for launch in self._launches:
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

    def _put(self, launches: Sequence[Launch], workspace: Workspace, *, first: bool, last: bool) -> None:
        """Put a segment on the current stream."""
        workspace.begin()
        if first:
            self._copy_in(self._at)
        for launch in launches:
            self._launch(launch, self._at, workspace)
        if last:
            self._copy_out(self._at)
        workspace.end()
