"""Runs that repeat, recorded: copy in, kernels and copy out of a piece begin by one call.

The first run of a kernel is never recorded, as most kernels of one-shot requests run once. From the second run of as
many samples on, memory on both sides and a CUDA graph are kept for its pieces, and each piece is: copy x into pinned
memory, launch, wait without the GIL, copy out. Pieces take turns as in transfer.py, on a few tracks: what runs on the
same one shares its device memory, so that the layers of a network need little more of it than the largest of them.
Recordings that are not in use are dropped, least recently used first, when they hold more than the engine may, and all
of them when device memory runs out.
"""

import logging
from collections import deque
from dataclasses import dataclass
from weakref import WeakValueDictionary

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.device import Device, storage
from groupconv_worker.cuda.errors import is_sticky
from groupconv_worker.cuda.kernel import DeviceKernel
from groupconv_worker.cuda.shelves import Shelf
from groupconv_worker.cuda.transfer import SLOTS, Chunk, bytes_of_a_piece, compute, group_bytes, piece_size, pieces
from groupconv_worker.job import current

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Recordings of equal pieces of one kernel: as many are under way at a time, for all threads."""

BATCHES = 64
"""Numbers of samples of which a kernel's recordings are kept; with more of them it begins anew."""

KINDS = 4
"""Different pieces of a run that is recorded, at most: what is cut along groups has one for each part of them."""


class Recording:
    """A piece of a run, with all its memory. One thread uses it at a time: `begin`, then `end`.

    Args:
        device: where; current.
        kernel: what to run.
        problem: its shapes and dtypes.
        samples: of the piece.
        groups: those it computes.

    Attributes:
        parts: on the host and on the device; see `Kept`.
        used: see `Kept`.

    Raises:
        BlockingIOError: another thread is recording.
        Exception: whatever a library says that cannot be captured.
    """

    used = 0

    def __init__(self, device: Device, kernel: DeviceKernel, problem: Problem, samples: int, groups: slice) -> None:
        g, types = problem.geometry, problem.types
        cupy, runtime, count = device.cupy, device.cupy.cuda.runtime, groups.stop - groups.start
        x_shape = (samples, g.in_channels // g.groups * count, *g.input)
        y_shape = (samples, g.out_channels // g.groups * count, *g.output)
        host_x = device.pinned_array(x_shape, storage(types.input))
        host_y = device.pinned_array(y_shape, storage(types.output))

        def run() -> None:
            stream = cupy.cuda.get_current_stream().ptr
            x, y = cupy.empty(x_shape, host_x.dtype), cupy.empty(y_shape, host_y.dtype)
            runtime.memcpyAsync(x.data.ptr, host_x.ctypes.data, x.nbytes, runtime.memcpyHostToDevice, stream)
            compute(kernel, types, x, y, groups.start, device.options.workspace)
            runtime.memcpyAsync(host_y.ctypes.data, y.data.ptr, y.nbytes, runtime.memcpyDeviceToHost, stream)

        track, transforms = device.next_track(), kernel.algorithm == "fft"
        if (captured := device.graphs.capture(run, wait=False, transforms=transforms, track=track)) is None:
            raise BlockingIOError("another thread is recording")
        self._kernel = kernel  # its weights and plans are in the graph
        self._launch, self._copy, self._stream = captured.launch, device.copy, track.stream
        self._captured = captured
        self._host_x, self._host_y = host_x.view(types.input), host_y.view(types.output)
        self.parts = captured.parts | {id(self._host_x): host_x.nbytes, id(self._host_y): host_y.nbytes}

    def begin(self, x: Array) -> None:
        """Take x, of any strides, and put the piece on its stream."""
        self._copy(self._host_x, x)
        self._launch(self._stream)

    def wait(self) -> None:
        """Until the device does nothing more of it: from then on its memory may be somebody else's."""
        self._stream.synchronize()

    def end(self, out: Array) -> None:
        """Wait for the result and write it."""
        self._stream.synchronize()
        self._copy(out, self._host_y)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A piece of a run, and where recordings of its kind stand."""

    piece: Chunk
    x: tuple[slice, slice]
    y: tuple[slice, slice]
    shelf: Shelf[Recording]


class Recorder:
    """The recordings of one kernel.

    Args:
        device: where.
        kernel: what to run.
        problem: its shapes and dtypes.
    """

    def __init__(self, device: Device, kernel: DeviceKernel, problem: Problem) -> None:
        self._device, self._kernel, self._problem = device, kernel, problem
        # by samples and first group of a piece; the cuts hold them
        self._shelves: WeakValueDictionary[tuple[int, int], Shelf[Recording]] = WeakValueDictionary()
        self._cuts: dict[int, tuple[_Cut, ...]] = {}  # by samples of a run; none: it is not to be recorded
        self._ran: set[int] = set()  # samples of the runs there were

    def run(self, x: Array, out: Array) -> bool:
        """Whether the run was one that is recorded, and is done; else it must go another way.

        Raises:
            DeviceLostError: the device failed; the process must be replaced.
        """
        samples = x.shape[0]
        if (cuts := self._cuts.get(samples)) is None:
            if samples not in self._ran:
                if len(self._ran) >= BATCHES:
                    self._ran.clear()
                self._ran.add(samples)
                return False
            if len(self._cuts) >= BATCHES:
                self._cuts.clear()
            cuts = self._cuts[samples] = self._cut(samples)
        if not cuts:
            return False
        with self._device.current():
            if len(cuts) > 1:
                return self._in_turns(cuts, x, out)
            if (recording := self._obtain(cuts[0], samples)) is None:
                return False
            recording.begin(x)
            recording.end(out)
        cuts[0].shelf.put(recording)
        return True

    def _cut(self, samples: int) -> tuple[_Cut, ...]:
        g = self._problem.geometry
        one = group_bytes(g, self._problem.types)
        most = bytes_of_a_piece(g, self._problem.types, self._device.options.chunk)
        some_samples, some_groups = piece_size(samples, g.groups, one, most)
        if 2 * some_samples * some_groups * one > self._device.shelves.limit:  # here and there
            return ()
        cuts = []
        for piece in pieces(samples, g.groups, some_samples, some_groups):
            key = (piece.samples.stop - piece.samples.start, piece.groups.start)
            shelf = self._shelves.setdefault(key, Shelf())
            x, y = (piece.channels(channels // g.groups) for channels in (g.in_channels, g.out_channels))
            cuts.append(_Cut(piece, x, y, shelf))
        return tuple(cuts) if len({cut.shelf for cut in cuts}) <= KINDS else ()

    def _in_turns(self, cuts: tuple[_Cut, ...], x: Array, out: Array) -> bool:
        """Several pieces, each begun before the one before is ended."""
        ready: dict[Shelf[Recording], list[Recording]] = {}
        under_way: deque[tuple[Recording, _Cut]] = deque()

        def end_one() -> None:
            recording, cut = under_way[0]
            recording.end(out[cut.y])
            under_way.popleft()
            ready[cut.shelf].append(recording)

        try:
            for cut in cuts:  # without one of each kind it could not go on
                if cut.shelf not in ready:
                    if (recording := self._obtain(cut, len(x))) is None:
                        return False
                    ready[cut.shelf] = [recording]
            for cut in cuts:
                current().check()
                if not ready[cut.shelf] and len(under_way) < SLOTS and (more := self._obtain(cut, len(x))):
                    ready[cut.shelf].append(more)
                while not ready[cut.shelf] or len(under_way) == SLOTS:
                    end_one()
                recording = ready[cut.shelf].pop()
                recording.begin(x[cut.x])
                under_way.append((recording, cut))
            while under_way:
                end_one()
        finally:
            for recording, _ in under_way:  # after an error
                recording.wait()
            for shelf, idle in ready.items():
                for recording in idle:
                    shelf.put(recording)
        return True

    def _obtain(self, cut: _Cut, samples: int) -> Recording | None:
        """One that is idle or a new one; None if there is none to be had, for now or for ever."""
        return cut.shelf.take() or self._record(cut, samples)

    def _record(self, cut: _Cut, samples: int) -> Recording | None:
        shelf, of = cut.shelf, cut.piece.samples
        if len(shelf.all) >= AT_ONCE:
            return None
        try:
            recording = Recording(self._device, self._kernel, self._problem, of.stop - of.start, cut.piece.groups)
        except BlockingIOError:
            return None
        except Exception as error:
            if isinstance(error, RuntimeError) and is_sticky(self._device.cupy, error):
                raise
            log.debug("%s of %d samples is not recorded: %s", self._kernel.algorithm, samples, error)
        else:
            if self._device.shelves.admit(shelf, recording):
                return recording
        if not len(shelf.all):
            self._cuts[samples] = ()
        return None
