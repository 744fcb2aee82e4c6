"""Runs that repeat, by captured graphs: copy in, kernels and copy out of a chunk are one launch.

The device copies by itself from and to arrays of the caller's that are page-locked. Then a graph has the kernels only,
as it contains addresses, and each call has others. The copies are put on the same stream, before it and behind it.

The first run of a kernel is never captured, as most kernels of one-shot requests run once. From the second run of the
same number of samples on, memory on both sides and a CUDA graph are kept for each of its chunks. A chunk then is: copy
x into pinned memory, launch, wait without the GIL, copy out. Chunks overlap as in transfer.py, on a few streams. Graphs
on one stream share its device memory, so that the layers of a network need little more than the largest of them.
Idle graphs are dropped, least recently used first, when all hold more than the engine may, and all of them when device
memory runs out.
"""

import logging
from collections import deque
from dataclasses import dataclass
from weakref import WeakValueDictionary

from groupconv_worker.contract import Array
from groupconv_worker.cuda.chain import Kernel
from groupconv_worker.cuda.chunks import Chunk, Maps, chunk_size, chunks
from groupconv_worker.cuda.device import Device, storage
from groupconv_worker.cuda.errors import is_sticky
from groupconv_worker.cuda.graphs.cache import GraphPool
from groupconv_worker.cuda.transfer import IN_FLIGHT
from groupconv_worker.job import current

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Graphs of equal chunks of one kernel, for all threads: as many chunks run at a time."""

BATCHES = 64
"""Numbers of samples for which a kernel keeps graphs; with more of them it begins anew."""

KINDS = 4
"""Different chunks of a captured run, at most. A run that is cut along groups has one kind for each part of them."""


class CapturedChunk:
    """A chunk of a run with all its memory. One thread uses it at a time: `begin`, then `end`.

    Args:
        device: where; the current one.
        kernel: what to run.
        maps: its input and output.
        samples: of the chunk.
        groups: that it computes.
        locked: whether the caller's arrays are page-locked, so that the graph has no copies and the chunk no memory on
            the host.

    Attributes:
        parts: on the host and on the device; see `Cacheable`.
        used: see `Cacheable`.

    Raises:
        BlockingIOError: another thread captures.
        Exception: of a library whose work cannot be captured.
    """

    used = 0

    def __init__(
        self, device: Device, kernel: Kernel, maps: Maps, samples: int, groups: slice, *, locked: bool
    ) -> None:
        cupy, runtime = device.cupy, device.cupy.cuda.runtime
        x_shape, y_shape = maps.shapes(samples, groups.stop - groups.start)
        x_dtype, y_dtype = storage(maps.x_dtype), storage(maps.y_dtype)
        self._memcpy, self._to, self._from = runtime.memcpyAsync, runtime.memcpyHostToDevice, runtime.memcpyDeviceToHost
        host = () if locked else (device.pinned_array(x_shape, x_dtype), device.pinned_array(y_shape, y_dtype))

        def run() -> None:
            stream = cupy.cuda.get_current_stream().ptr
            x, y = cupy.empty(x_shape, x_dtype), cupy.empty(y_shape, y_dtype)
            self._x, self._y = x.data.ptr, y.data.ptr  # the graph keeps their memory
            if host:
                self._memcpy(self._x, host[0].ctypes.data, x.nbytes, self._to, stream)
            kernel.run(x, y, groups.start, device.options.workspace)
            if host:
                self._memcpy(host[1].ctypes.data, self._y, y.nbytes, self._from, stream)

        self._x = self._y = 0
        self._stream = device.next_graph_stream()
        captured = device.graphs.capture(run, wait=False, transforms=kernel.transforms, stream=self._stream)
        if captured is None:
            raise BlockingIOError("another thread captures")
        self._kernel = kernel  # the graph contains addresses of its weights and plans
        self._launch, self._copy, self._captured = captured.launch, device.copy, captured
        self._host = tuple(a.view(dtype) for a, dtype in zip(host, (maps.x_dtype, maps.y_dtype), strict=False))
        self.parts = captured.parts | {id(array): array.nbytes for array in self._host}

    def begin(self, x: Array, out: Array) -> None:
        """Put the chunk on its stream. x and out may have any strides, unless they are page-locked."""
        if self._host:
            self._copy(self._host[0], x)
        stream = self._stream.stream
        with self._stream.lock:  # other graphs of the stream use the same memory
            if not self._host:
                self._memcpy(self._x, x.ctypes.data, x.nbytes, self._to, stream.ptr)
            self._launch(stream)
            if not self._host:
                self._memcpy(out.ctypes.data, self._y, out.nbytes, self._from, stream.ptr)

    def wait(self) -> None:
        """Block until the device is done with the chunk, so that its memory may be used for something else."""
        self._stream.stream.synchronize()

    def end(self, out: Array) -> None:
        """Wait until the result is in the `out` that `begin` was given."""
        self.wait()
        if self._host:
            self._copy(out, self._host[1])


@dataclass(frozen=True, slots=True)
class _Cut:
    """A chunk of a run, its indices in x and y, and the pool of graphs that compute such chunks."""

    chunk: Chunk
    x: tuple[slice, slice]
    y: tuple[slice, slice]
    pool: GraphPool[CapturedChunk]


_Kind = tuple[int, bool]
"""The samples of a run, and whether its arrays are page-locked."""


class CapturedRuns:
    """The captured runs of one kernel.

    Args:
        device: where.
        kernel: what to run.
        maps: its input and output.
    """

    def __init__(self, device: Device, kernel: Kernel, maps: Maps) -> None:
        self._device, self._kernel, self._maps = device, kernel, maps
        # by samples and first group of a chunk, and whether it is page-locked; the cuts hold them
        self._pools: WeakValueDictionary[tuple[int, int, bool], GraphPool[CapturedChunk]] = WeakValueDictionary()
        self._cuts: dict[_Kind, tuple[_Cut, ...]] = {}  # empty: such a run is not captured
        self._seen: set[_Kind] = set()  # of the runs so far

    def run(self, x: Array, out: Array) -> bool:
        """Run by captured graphs. False, with nothing done, if such a run is not captured.

        Raises:
            DeviceLostError: the device failed; the process must be replaced.
        """
        kind = x.shape[0], self._device.page_locked.holds(x) and self._device.page_locked.holds(out)
        if (cuts := self._cuts.get(kind)) is None:
            if kind not in self._seen:
                if len(self._seen) >= BATCHES:
                    self._seen.clear()
                self._seen.add(kind)
                return False
            if len(self._cuts) >= BATCHES:
                self._cuts.clear()
            cuts = self._cuts[kind] = self._cut(*kind)
        if not cuts:
            return False
        with self._device.current():
            if len(cuts) > 1:
                return self._overlapping(cuts, kind, x, out)
            if (captured := self._obtain(cuts[0], kind)) is None:
                return False
            captured.begin(x, out)
            captured.end(out)
        cuts[0].pool.put(captured)
        return True

    def _cut(self, samples: int, locked: bool) -> tuple[_Cut, ...]:
        maps = self._maps
        most = maps.chunk_bytes(self._device.options.chunk)
        some_samples, some_groups = chunk_size(samples, maps.groups, maps.nbytes, most)
        if (1 if locked else 2) * some_samples * some_groups * maps.nbytes > self._device.graph_cache.limit:
            return ()
        cuts = []
        for chunk in chunks(samples, maps.groups, some_samples, some_groups):
            key = chunk.samples.stop - chunk.samples.start, chunk.groups.start, locked
            pool = self._pools.setdefault(key, GraphPool())
            cuts.append(_Cut(chunk, chunk.channels(maps.x[0]), chunk.channels(maps.y[0]), pool))
        return tuple(cuts) if len({cut.pool for cut in cuts}) <= KINDS else ()

    def _overlapping(self, cuts: tuple[_Cut, ...], kind: _Kind, x: Array, out: Array) -> bool:
        """Several chunks; each begins before the previous one has ended."""
        ready: dict[GraphPool[CapturedChunk], list[CapturedChunk]] = {}
        under_way: deque[tuple[CapturedChunk, _Cut]] = deque()

        def end_first() -> None:
            captured, cut = under_way[0]
            captured.end(out[cut.y])
            under_way.popleft()
            ready[cut.pool].append(captured)

        try:
            for cut in cuts:  # one of each kind before the first begins: without it the run could not go on
                if cut.pool not in ready:
                    if (captured := self._obtain(cut, kind)) is None:
                        return False
                    ready[cut.pool] = [captured]
            for cut in cuts:
                current().check()
                if not ready[cut.pool] and len(under_way) < IN_FLIGHT and (more := self._obtain(cut, kind)):
                    ready[cut.pool].append(more)
                while not ready[cut.pool] or len(under_way) == IN_FLIGHT:
                    end_first()
                captured = ready[cut.pool].pop()
                captured.begin(x[cut.x], out[cut.y])
                under_way.append((captured, cut))
            while under_way:
                end_first()
        finally:
            for captured, _ in under_way:  # after an error
                captured.wait()
            for pool, idle in ready.items():
                for captured in idle:
                    pool.put(captured)
        return True

    def _obtain(self, cut: _Cut, kind: _Kind) -> CapturedChunk | None:
        """An idle graph or a new one; None if there is none to be had."""
        return cut.pool.take() or self._capture(cut, kind)

    def _capture(self, cut: _Cut, kind: _Kind) -> CapturedChunk | None:
        pool, of = cut.pool, cut.chunk.samples
        if len(pool.all) >= AT_ONCE:
            return None
        try:
            captured = CapturedChunk(
                self._device, self._kernel, self._maps, of.stop - of.start, cut.chunk.groups, locked=kind[1]
            )
        except BlockingIOError:
            return None
        except Exception as error:
            if isinstance(error, RuntimeError) and is_sticky(self._device.cupy, error):
                raise
            log.debug("%s of %d samples is not captured: %s", self._kernel.algorithm, kind[0], error)
        else:
            if self._device.graph_cache.admit(pool, captured):
                return captured
        if not len(pool.all):
            self._cuts[kind] = ()
        return None
