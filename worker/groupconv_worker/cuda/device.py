"""One CUDA device as the engine uses it: a memory pool with a limit, kernels, and streams for each run."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from cachetools import LRUCache

from groupconv.convolution.dtypes import BFLOAT16, Types, is_float
from groupconv.convolution.geometry import Geometry
from groupconv.errors import ResourceExhaustedError
from groupconv_worker.caches import ENTRY, MIB
from groupconv_worker.contract import Array, DeviceLostError
from groupconv_worker.cuda.arguments import ACTIVATIONS, EPILOGUE, ReductionOrder, device_taps, phases_of
from groupconv_worker.cuda.errors import cuda_errors
from groupconv_worker.cuda.graphs import Graphs, Track
from groupconv_worker.cuda.modules import Kernels
from groupconv_worker.cuda.options import CudaOptions
from groupconv_worker.cuda.shelves import Shelves

TRACKS = 4
"""Recorded runs that overlap; see `Track`."""

TABLES = 64 * MIB
"""Bytes of tap tables kept on the device, and about as many beside it: a shape seen before needs no new one."""


class RunStreams:
    """The streams of one run: copies in, kernels, copies out. One thread uses a lane at a time."""

    def __init__(self, cupy: Any) -> None:
        # non-blocking: the legacy default stream would serialise all of them
        self.copy_in, self.compute, self.copy_out = (cupy.cuda.Stream(non_blocking=True) for _ in range(3))

    def synchronize(self) -> None:
        """Wait for everything under way."""
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.synchronize()


class Device:
    """The device that is current when this is made: in a Ray actor, the one Ray assigned.

    Args:
        cupy: the module.
        options: of the engine.
        threads: that copy on the host.

    Attributes:
        ordinal: which one it is in this process.
        copy: copies host arrays.
    """

    def __init__(self, cupy: Any, options: CudaOptions, threads: int = 1) -> None:
        from groupconv_worker.cuda.copying import Copier  # compiled: a server without a GPU need not load the compiler

        self.cupy, self.options, self.copy = cupy, options, Copier(threads)
        self._device = cupy.cuda.Device()
        self.ordinal = int(self._device.id)
        self.kernels = Kernels(cupy)
        # kept: CuPy asks the driver for every attribute there is each time
        self.multiprocessors = int(self._device.attributes["MultiProcessorCount"])
        self.pool = cupy.cuda.MemoryPool()  # not CuPy's default one, whose limit belongs to the whole process
        self.pool.set_limit(size=options.memory_limit)
        self.pinned = cupy.cuda.PinnedMemoryPool()
        self.graphs = Graphs(cupy, self.pool)
        # at most half of what there is: weights and the runs that are not recorded need some, too
        self.shelves = Shelves(min(options.recordings, options.memory_limit // 2 or options.recordings))
        self._tracks = itertools.cycle([Track(cupy) for _ in range(TRACKS)])
        self._lanes: list[RunStreams] = []
        self._phases: LRUCache[Geometry, tuple[ReductionOrder, Any, Any]] = LRUCache(TABLES, getsizeof=_table_bytes)
        self._lock = Lock()
        self._lost = ""

    def describe(self) -> str:
        """Name and memory."""
        properties = self.cupy.cuda.runtime.getDeviceProperties(self._device.id)
        return f"cuda: {properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB"

    @contextmanager
    def current(self) -> Iterator[None]:
        """This device is the current one of this thread inside, and its errors are this package's.

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
    def lane(self) -> Iterator[RunStreams]:
        """A lane for this thread; its compute stream and the pool are current inside.

        All work of the lane is done when the block is left, however it is left: no buffer goes back to a pool
        while a copy or kernel still uses it.

        Raises:
            DeviceLostError: as `current`.
        """
        with self.current():
            with self._lock:
                lane = self._lanes.pop() if self._lanes else None
            lane = lane or RunStreams(self.cupy)
            with self.cupy.cuda.using_allocator(self.pool.malloc), lane.compute:
                try:
                    yield lane
                finally:
                    lane.synchronize()
            with self._lock:
                self._lanes.append(lane)

    def next_track(self) -> Track:
        """Tracks in turn, for whatever is recorded next."""
        with self._lock:
            return next(self._tracks)

    def pinned_array(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """Page-locked host memory: the copy engines read and write it without the CPU."""
        count = math.prod(shape)
        # rounded up to a power of two, so that the pool can give the same memory to like sizes again
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
                        raise ResourceExhaustedError(f"cuda: what is between two steps, {shape}: {error}") from error

    def upload(self, host: Array) -> Any:
        """A host array as a device array of its storage dtype, copied on the current stream."""
        return self.cupy.asarray(np.ascontiguousarray(host).view(storage(host.dtype)))

    def phases(self, g: Geometry) -> tuple[ReductionOrder, Any, Any]:
        """`phases_of(g)` with its taps and starts on the device."""
        with self._lock:
            found = self._phases.get(g)
        if found is None:
            phases = phases_of(g)
            found = phases, self.upload(device_taps(g, phases.taps).view(np.int32)), self.upload(phases.starts)
            self.cupy.cuda.get_current_stream().synchronize()  # other lanes will read it
            with self._lock:
                if _table_bytes(found) <= TABLES:
                    self._phases[g] = found
        return found

    def make_room(self) -> bool:
        """Drop what is only kept to be faster; whether there was something."""
        dropped = self.shelves.clear()
        self.pool.free_all_blocks()
        return dropped

    def close(self) -> None:
        """Give device and pinned memory back."""
        self._phases.clear()
        self._lanes.clear()
        self.make_room()
        self.pinned.free_all_blocks()
        self.copy.close()


def _table_bytes(table: tuple[ReductionOrder, Any, Any]) -> int:
    """Bytes of a geometry's tap table on the device."""
    _, taps, starts = table
    return ENTRY + int(taps.nbytes + starts.nbytes)


class Epilogue:
    """Bias and activation of a convolution, on the device.

    Args:
        device: where.
        g: for the activation.
        bias: (M,) or None.
        accumulate: the dtype sums are kept in.
    """

    def __init__(self, device: Device, g: Geometry, bias: Array | None, accumulate: np.dtype) -> None:
        self._itemsize = accumulate.itemsize
        self._bias = None if bias is None else device.upload(bias.astype(accumulate))
        slope = g.activation.slope if g.activation else ()
        self._slope = device.upload(np.array(slope, dtype=accumulate)) if slope else None
        self._slope_step = int(len(slope) > 1)
        self._activation = ACTIVATIONS[g.activation.kind if g.activation else None]

    @property
    def nbytes(self) -> int:
        """Bytes of device memory."""
        return sum(int(array.nbytes) for array in (self._bias, self._slope) if array is not None)

    @property
    def is_identity(self) -> bool:
        """Nothing to do."""
        return self._bias is None and self._activation == 0

    def record(self, first_channel: int) -> Array:
        """The kernel argument for output channels from `first_channel` on."""
        record = np.zeros((), dtype=EPILOGUE)
        if self._bias is not None:
            record["bias"] = self._bias.data.ptr + first_channel * self._itemsize
        if self._slope is not None:
            record["slope"] = self._slope.data.ptr + first_channel * self._itemsize * self._slope_step
        record["slope_step"], record["activation"] = self._slope_step, self._activation
        return record


def storage(dtype: np.dtype) -> np.dtype:
    """The dtype a device array has in CuPy: bfloat16 travels as its bits, of which CuPy need know nothing."""
    return np.dtype(np.uint16) if dtype == BFLOAT16 else dtype


def device_types(types: Types) -> Types:
    """What the kernels compute in: an integer input meets a float kernel as float; integer kernels are int32."""
    wide = types.accumulate
    if is_float(types.input):
        return types
    if is_float(types.output):
        return Types(wide, wide, wide, wide)
    return Types(types.input, wide, wide, wide)
