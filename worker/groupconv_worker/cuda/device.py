"""One CUDA device as the engine uses it: a memory pool with a limit, libraries, kernels, and streams for each run."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from cachetools import LRUCache

from groupconv.convolution.dtypes import BFLOAT16, Types, is_float
from groupconv.convolution.geometry import Geometry
from groupconv.errors import ResourceExhaustedError
from groupconv_worker.caches import ENTRY, MIB
from groupconv_worker.contract import Array, DeviceLostError
from groupconv_worker.cuda.arguments import ReductionOrder, device_taps, phases_of
from groupconv_worker.cuda.cudnn import CudnnLibrary
from groupconv_worker.cuda.errors import cuda_errors
from groupconv_worker.cuda.graphs.cache import GraphCache
from groupconv_worker.cuda.graphs.capture import GraphCapture, GraphStream
from groupconv_worker.cuda.modules import Kernels
from groupconv_worker.cuda.options import CudaOptions
from groupconv_worker.cuda.page_locked import PageLocked

GRAPH_STREAMS = 4
"""Captured graphs that overlap; see `GraphStream`."""

CONTEXT = 512 * MIB
"""Bytes of a process's share of a device that its context, kernels and libraries take outside the pool."""

TABLES = 64 * MIB
"""Bytes of tap tables kept on the device, and about as many on the host, for the next kernel of the same shape."""


class TapTable(NamedTuple):
    """The taps of a geometry, on the host and on the device.

    Attributes:
        order: `phases_of` the geometry.
        taps, starts: on the device.
    """

    order: ReductionOrder
    taps: Any
    starts: Any

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.order.nbytes + self.device_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes on the device, and of the cache's entry."""
        return ENTRY + int(self.taps.nbytes + self.starts.nbytes)


class RunStreams:
    """The streams of one run: copies in, kernels, copies out. One thread uses them at a time."""

    def __init__(self, cupy: Any) -> None:
        # non-blocking: the legacy default stream would serialize all of them
        self.copy_in, self.compute, self.copy_out = (cupy.cuda.Stream(non_blocking=True) for _ in range(3))

    def synchronize(self) -> None:
        """Wait for all of their work."""
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.synchronize()


class Device:
    """One device of this process. In a Ray actor, device 0 is the one that Ray assigned.

    Args:
        cupy: the module.
        options: of the engine.
        threads: that copy on the host.
        ordinal: its number in this process.

    Attributes:
        ordinal: as given.
        copy: copies host arrays.
        page_locked: host memory of others that it copies from and to by itself.
        memory_limit: bytes that its pool may hold; 0 if nothing limits it but the device.
        multiprocessors, compute_capability: of the device; the latter as "90" for sm_90.
        cudnn: the library; None if it is not installed.
    """

    def __init__(self, cupy: Any, options: CudaOptions, threads: int = 1, ordinal: int = 0) -> None:
        from groupconv_worker.cuda.copying import Copier  # loads a compiler, which a server without a GPU need not

        self.cupy, self.options, self.ordinal, self.copy = cupy, options, ordinal, Copier(threads)
        self._device, self._lost, self._lock = cupy.cuda.Device(ordinal), "", Lock()
        with self.current():
            self._begin()

    def _begin(self) -> None:
        """Make what belongs to the device, which is the current one."""
        cupy, options = self.cupy, self.options
        self.kernels = Kernels(cupy)
        # kept: each time, CuPy asks the driver for every attribute
        self.multiprocessors = int(self._device.attributes["MultiProcessorCount"])
        self.compute_capability = str(self._device.compute_capability)
        self.pool = cupy.cuda.MemoryPool()  # not CuPy's default one, which the whole process shares
        if limit := self._memory_limit():
            self.pool.set_limit(size=limit)  # 0 would undo CUPY_GPU_MEMORY_LIMIT
        self.memory_limit = int(self.pool.get_limit())
        self.pinned = cupy.cuda.PinnedMemoryPool()
        self.page_locked = PageLocked(cupy, options.page_locked)
        self.graphs = GraphCapture(cupy, self.pool)
        # at most half of the limit: weights, and runs that are not captured, need memory, too
        self.graph_cache = GraphCache(min(options.graph_memory, self.memory_limit // 2 or options.graph_memory))
        self.cudnn = CudnnLibrary.load(options)
        self._graph_streams = itertools.cycle([GraphStream(cupy) for _ in range(GRAPH_STREAMS)])
        self._streams: list[RunStreams] = []
        self._tables: LRUCache[Geometry, TapTable] = LRUCache(TABLES, getsizeof=lambda table: table.device_bytes)

    def describe(self) -> str:
        """Name and memory."""
        properties = self._properties()
        return f"cuda: {properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB"

    def _memory_limit(self) -> int:
        """Bytes of the pool by the options; 0 if they do not limit it."""
        options, limits = self.options, [self.options.memory_limit]
        if options.memory_fraction < 1:
            share = int(options.memory_fraction * self._properties()["totalGlobalMem"])
            limits.append(max(share - CONTEXT, share // 2))
        return min((limit for limit in limits if limit), default=0)

    def _properties(self) -> Any:
        return self.cupy.cuda.runtime.getDeviceProperties(self.ordinal)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, this device is the current one of this thread, and its errors are this package's.

        Raises:
            DeviceLostError: the context is broken, now or since an earlier run.
        """
        if self._lost:
            raise DeviceLostError(self._lost)
        try:
            with self._device, cuda_errors(self.cupy):
                yield
        except DeviceLostError as error:
            self._lost = str(error)
            raise

    @contextmanager
    def streams(self) -> Iterator[RunStreams]:
        """Streams for this thread; inside, their compute stream and the memory pool are the current ones.

        All work on the streams is done when the block is left, however it is left: no buffer returns to a pool while
        a copy or kernel still uses it.

        Raises:
            DeviceLostError: the context is broken.
        """
        with self.current():
            with self._lock:
                streams = self._streams.pop() if self._streams else None
            streams = streams or RunStreams(self.cupy)
            with self.cupy.cuda.using_allocator(self.pool.malloc), streams.compute:
                try:
                    yield streams
                finally:
                    streams.synchronize()
            with self._lock:
                self._streams.append(streams)

    def next_graph_stream(self) -> GraphStream:
        """A stream for the next graph; all are used in turn."""
        with self._lock:
            return next(self._graph_streams)

    def pinned_array(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """Page-locked host memory: the copy engines read and write it without the CPU."""
        count = math.prod(shape)
        # rounded up to a power of two, so that the pool can use the memory again for similar sizes
        memory = self.pinned.malloc(1 << max(0, count * dtype.itemsize - 1).bit_length())
        return np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A device array that outlives a run, of the engine's own memory.

        Raises:
            ResourceExhaustedError: there is no room for it.
        """
        memory = self.cupy.cuda.memory
        with self.current(), self.cupy.cuda.using_allocator(self.pool.malloc):
            while True:
                try:
                    return self.cupy.empty(shape, dtype)
                except memory.OutOfMemoryError as error:
                    if not self.make_room():
                        reason = f"cuda: no device memory for an array of shape {shape} between two steps: {error}"
                        raise ResourceExhaustedError(reason) from error

    def upload(self, host: Array) -> Any:
        """A host array as a device array of its storage dtype, copied on the current stream."""
        return self.cupy.asarray(np.ascontiguousarray(host).view(storage(host.dtype)))

    def tap_table(self, g: Geometry) -> TapTable:
        """The taps of `g`; kept for the next kernel of the same shape."""
        with self._lock:
            table = self._tables.get(g)
        if table is None:
            order = phases_of(g)
            taps = self.upload(device_taps(g, order.taps).view(np.int32))
            table = TapTable(order, taps, self.upload(order.starts))
            self.cupy.cuda.get_current_stream().synchronize()  # other streams will read it
            with self._lock:
                if table.device_bytes <= TABLES:
                    self._tables[g] = table
        return table

    def free_bytes(self) -> int:
        """Bytes that the pool can still hand out: of its limit, or of the device if it has none."""
        if self.memory_limit:
            return self.memory_limit - int(self.pool.used_bytes())
        with self.current():
            return int(self.cupy.cuda.runtime.memGetInfo()[0]) + int(self.pool.free_bytes())

    def make_room(self) -> bool:
        """Free device memory that only makes runs faster; whether there was any."""
        dropped = self.graph_cache.clear()
        self.pool.free_all_blocks()
        return dropped

    def close(self) -> None:
        """Free device and pinned memory, and end the threads that copy."""
        self._tables.clear()
        self._streams.clear()
        with self._device:
            self.make_room()
        self.pinned.free_all_blocks()
        self.copy.close()


def storage(dtype: np.dtype) -> np.dtype:
    """The dtype of a device array in CuPy, which has no bfloat16: its bits, as unsigned integers."""
    return np.dtype(np.uint16) if dtype == BFLOAT16 else dtype


def device_types(types: Types) -> Types:
    """The dtypes of kernels: an integer input becomes float for a kernel of floats; integer weights are int32."""
    wide = types.accumulate
    if is_float(types.input):
        return types
    if is_float(types.output):
        return Types(wide, wide, wide, wide)
    return Types(types.input, wide, wide, wide)
