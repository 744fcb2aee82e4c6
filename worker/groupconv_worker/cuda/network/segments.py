"""Runs of a network's part: its launches between two meetings with other parts are recorded as one CUDA graph each.

A recorded wait would have the same number in every run. So the meetings lie between the graphs: the stream waits for,
and writes, the number of the run.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np

from groupconv.gpu.driver import Driver, driver
from groupconv_worker.contract import Array
from groupconv_worker.cuda.graphs.capture import CapturedGraph, GraphStream
from groupconv_worker.cuda.network.lowering import Launch, Meeting
from groupconv_worker.cuda.network.recording import Recording, Workspace

LINE = 16
"""Words of 4 bytes from one exchange's word to the next: two parts never write the same cache line."""


class Words:
    """A word for each exchange, in memory of the host that devices see: the last run that has brought its elements.

    Args:
        memory: (exchanges × `LINE`,) uint32, page-locked; zeros.
    """

    def __init__(self, memory: Array) -> None:
        self._memory = memory

    def address(self, exchange: int) -> int:
        """Where the word is."""
        return int(self._memory.ctypes.data) + exchange * LINE * self._memory.itemsize

    def release(self, run: int) -> None:
        """Let no part wait any more in a run that is over. What it then makes is wrong, and nobody takes it."""
        self._memory[::LINE] = run % 2**32


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

    def _begin(self) -> None:
        self._arena = self._device.empty((max(1, self._arena_bytes),), np.dtype(np.uint8))
        self._at = self._views(self._arena)
        self._own_stream = GraphStream(self._device.cupy)  # a wait on one that is shared would hold up other networks
        self._steps = self._in_steps()
        self.parts[id(self._arena)] = int(self._arena.nbytes)

    @property
    def recorded(self) -> bool:
        """As above."""
        return all(step.graph is not None for step in self._steps if isinstance(step, _Segment))

    def record(self) -> None:
        """Run all segments once, without meetings, and capture them. What cannot be captured stays as it is.

        Raises:
            cupy.cuda.memory.OutOfMemoryError: there is no room for what launches need.
            DeviceLostError: the device failed.
        """
        for step in self._steps:
            if isinstance(step, _Segment):
                step.graph = self._captured(step.work, self._own_stream, transforms=step.transforms)
                if step.graph is None:
                    self.forget_graph()
                    return

    def forget_graph(self) -> None:
        """Run launch by launch from now on: there is no memory for the graphs."""
        for step in self._steps:
            if isinstance(step, _Segment):
                step.graph = None

    def run_number(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], words: Words, number: int) -> None:
        """Copy the inputs, do one run, meeting the other parts, and copy the outputs."""
        for name, host in self._inputs.items():
            self._device.copy(host, inputs[name])
        found, stream = driver(), self._own_stream.stream
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
        act(self._own_stream.stream.ptr, words.address(meeting.exchange), number % 2**32)

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
