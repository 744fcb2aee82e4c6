"""Runs that repeat, by captured graphs: copy in, kernels and copy out of a chunk are one launch.

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

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.chunks import Chunk, chunk_bytes, chunk_size, chunks, group_bytes
from groupconv_worker.cuda.device import Device, storage
from groupconv_worker.cuda.errors import is_sticky
from groupconv_worker.cuda.graph_cache import GraphPool
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
        problem: its shapes and dtypes.
        samples: of the chunk.
        groups: that it computes.

    Attributes:
        parts: on the host and on the device; see `Cacheable`.
        used: see `Cacheable`.

    Raises:
        BlockingIOError: another thread captures.
        Exception: of a library whose work cannot be captured.
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
            kernel.run(x, y, groups.start, device.options.workspace)
            runtime.memcpyAsync(host_y.ctypes.data, y.data.ptr, y.nbytes, runtime.memcpyDeviceToHost, stream)

        stream = device.next_graph_stream()
        captured = device.graphs.capture(run, wait=False, transforms=kernel.transforms, stream=stream)
        if captured is None:
            raise BlockingIOError("another thread captures")
        self._kernel = kernel  # the graph contains addresses of its weights and plans
        self._launch, self._copy, self._stream = captured.launch, device.copy, stream.stream
        self._captured = captured
        self._host_x, self._host_y = host_x.view(types.input), host_y.view(types.output)
        self.parts = captured.parts | {id(self._host_x): host_x.nbytes, id(self._host_y): host_y.nbytes}

    def begin(self, x: Array) -> None:
        """Copy x, of any strides, and put the chunk on its stream."""
        self._copy(self._host_x, x)
        self._launch(self._stream)

    def wait(self) -> None:
        """Block until the device is done with the chunk, so that its memory may be used for something else."""
        self._stream.synchronize()

    def end(self, out: Array) -> None:
        """Wait for the result and copy it into `out`."""
        self._stream.synchronize()
        self._copy(out, self._host_y)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A chunk of a run, its indices in x and y, and the pool of graphs that compute such chunks."""

    chunk: Chunk
    x: tuple[slice, slice]
    y: tuple[slice, slice]
    pool: GraphPool[CapturedChunk]


class CapturedRuns:
    """The captured runs of one kernel.

    Args:
        device: where.
        kernel: what to run.
        problem: its shapes and dtypes.
    """

    def __init__(self, device: Device, kernel: DeviceKernel, problem: Problem) -> None:
        self._device, self._kernel, self._problem = device, kernel, problem
        # by samples and first group of a chunk; the cuts hold them
        self._pools: WeakValueDictionary[tuple[int, int], GraphPool[CapturedChunk]] = WeakValueDictionary()
        self._cuts: dict[int, tuple[_Cut, ...]] = {}  # by samples of a run; empty: such a run is not captured
        self._seen: set[int] = set()  # samples of the runs so far

    def run(self, x: Array, out: Array) -> bool:
        """Run by captured graphs. False, with nothing done, if such a run is not captured.

        Raises:
            DeviceLostError: the device failed; the process must be replaced.
        """
        samples = x.shape[0]
        if (cuts := self._cuts.get(samples)) is None:
            if samples not in self._seen:
                if len(self._seen) >= BATCHES:
                    self._seen.clear()
                self._seen.add(samples)
                return False
            if len(self._cuts) >= BATCHES:
                self._cuts.clear()
            cuts = self._cuts[samples] = self._cut(samples)
        if not cuts:
            return False
        with self._device.current():
            if len(cuts) > 1:
                return self._overlapping(cuts, x, out)
            if (captured := self._obtain(cuts[0], samples)) is None:
                return False
            captured.begin(x)
            captured.end(out)
        cuts[0].pool.put(captured)
        return True

    def _cut(self, samples: int) -> tuple[_Cut, ...]:
        g = self._problem.geometry
        one = group_bytes(g, self._problem.types)
        most = chunk_bytes(g, self._problem.types, self._device.options.chunk)
        some_samples, some_groups = chunk_size(samples, g.groups, one, most)
        if 2 * some_samples * some_groups * one > self._device.graph_cache.limit:  # on the host and on the device
            return ()
        cuts = []
        for chunk in chunks(samples, g.groups, some_samples, some_groups):
            key = (chunk.samples.stop - chunk.samples.start, chunk.groups.start)
            pool = self._pools.setdefault(key, GraphPool())
            x, y = (chunk.channels(channels // g.groups) for channels in (g.in_channels, g.out_channels))
            cuts.append(_Cut(chunk, x, y, pool))
        return tuple(cuts) if len({cut.pool for cut in cuts}) <= KINDS else ()

    def _overlapping(self, cuts: tuple[_Cut, ...], x: Array, out: Array) -> bool:
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
                    if (captured := self._obtain(cut, len(x))) is None:
                        return False
                    ready[cut.pool] = [captured]
            for cut in cuts:
                current().check()
                if not ready[cut.pool] and len(under_way) < IN_FLIGHT and (more := self._obtain(cut, len(x))):
                    ready[cut.pool].append(more)
                while not ready[cut.pool] or len(under_way) == IN_FLIGHT:
                    end_first()
                captured = ready[cut.pool].pop()
                captured.begin(x[cut.x])
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

    def _obtain(self, cut: _Cut, samples: int) -> CapturedChunk | None:
        """An idle graph or a new one; None if there is none to be had."""
        return cut.pool.take() or self._capture(cut, samples)

    def _capture(self, cut: _Cut, samples: int) -> CapturedChunk | None:
        pool, of = cut.pool, cut.chunk.samples
        if len(pool.all) >= AT_ONCE:
            return None
        try:
            captured = CapturedChunk(self._device, self._kernel, self._problem, of.stop - of.start, cut.chunk.groups)
        except BlockingIOError:
            return None
        except Exception as error:
            if isinstance(error, RuntimeError) and is_sticky(self._device.cupy, error):
                raise
            log.debug("%s of %d samples is not captured: %s", self._kernel.algorithm, samples, error)
        else:
            if self._device.graph_cache.admit(pool, captured):
                return captured
        if not len(pool.all):
            self._cuts[samples] = ()
        return None
