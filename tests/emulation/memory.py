"""Device memory: a pool with a limit, and arrays that refuse to be used on the host by mistake, as CuPy's do."""

import ctypes
import itertools
import mmap
import os
import threading
import weakref
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from emulation import ipc, streams
from emulation.streams import Stream, current, current_device


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size} bytes (allocated so far: {total}, limit: {limit}).")


PAGES = False
"""Whether allocations are pages, which other processes can open."""
ON_DEVICE: dict[int, tuple[int, int, int]] = {}
"""Bytes, device and a number of its own for each allocation on a device, by its address."""
NUMBERS = itertools.count(2**32)  # a client's own have others


class MemoryPool:
    def __init__(self) -> None:
        self._limit, self._used = int(os.environ.get("CUPY_GPU_MEMORY_LIMIT", 0)), 0  # CuPy takes a percentage, too
        self._device: int | None = None
        self.peak = 0
        self._lock = threading.RLock()  # the garbage collector may free in the middle of malloc

    def set_limit(self, size: int | None = None) -> None:
        self._limit = size or 0

    def get_limit(self) -> int:
        return self._limit

    def malloc(self, size: int) -> "MemoryPointer":
        self._device = current_device() if self._device is None else self._device
        assert self._device == current_device(), "CuPy would take memory and limits of another device"
        with self._lock:
            if self._limit and self._used + size > self._limit:
                raise OutOfMemoryError(size, self._used, self._limit)
            self._used += size
            self.peak = max(self.peak, self._used)
        # ctypes keeps smaller ones in the object, and aligns them less
        memory = mmap.mmap(-1, max(size, 1)) if PAGES else (ctypes.c_uint8 * max(size, 32))()
        block = np.frombuffer(memory, dtype=np.uint8, count=size)
        block.fill(0xFF)  # NaN: a read before the first write is seen
        pointer = MemoryPointer(block)
        streams.allocate(pointer.ptr, size)
        ON_DEVICE[pointer.ptr] = size, self._device, next(NUMBERS)
        weakref.finalize(pointer, self._release, block, current())
        return pointer

    def _release(self, block: np.ndarray, stream: Stream) -> None:
        """Freed memory is the stream's until what was queued before has run, as in CuPy's pools."""
        streams.free(block.ctypes.data, block.size)
        ON_DEVICE.pop(block.ctypes.data, None)
        ipc.freed(block.ctypes.data)
        if not stream.is_capturing():
            stream.append(lambda: block.size)
        with self._lock:
            self._used -= block.size

    def used_bytes(self) -> int:
        return self._used

    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        pass


class PinnedMemoryPool:
    def malloc(self, size: int) -> np.ndarray:
        memory = np.full(size, 0xFF, dtype=np.uint8)
        streams.allocate(memory.ctypes.data, size)
        weakref.finalize(memory, streams.free, memory.ctypes.data, size)
        return memory

    def free_all_blocks(self) -> None:
        pass


class _Allocator(threading.local):
    def __init__(self) -> None:
        self.malloc = MemoryPool().malloc


ALLOCATOR = _Allocator()


def alloc(size: int) -> Any:
    return ALLOCATOR.malloc(size)


def get_allocator() -> Any:
    return ALLOCATOR.malloc


@contextmanager
def using_allocator(malloc: Any):
    before, ALLOCATOR.malloc = ALLOCATOR.malloc, malloc
    try:
        yield
    finally:
        ALLOCATOR.malloc = before


class MemoryPointer:
    """Memory, allocated for as long as this lives."""

    def __init__(self, block: np.ndarray) -> None:
        self.block, self.ptr, self.mem = block, block.ctypes.data, SimpleNamespace(size=block.size)
        self.device = current_device()
        self._base: MemoryPointer | None = None

    def __add__(self, offset: int) -> "MemoryPointer":
        """A part of the same memory, which keeps all of it."""
        part = MemoryPointer(self.block[offset:])
        part._base = self
        return part


class ndarray:  # noqa: N801 - CuPy's name
    """A device array over host memory. `host` is for the stand-in alone; work that is queued holds only that."""

    def __init__(self, host: np.ndarray, memory: MemoryPointer | None = None) -> None:
        self.host, self._memory = host, memory

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    ndim = property(lambda self: self.host.ndim)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    data = property(lambda self: SimpleNamespace(ptr=self.host.ctypes.data))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    @property
    def device(self) -> int | None:
        return None if self._memory is None else self._memory.device

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.device or 0)  # kDLCUDA

    def __dlpack__(self, **_: Any) -> Any:
        return self  # and not a capsule, which only `from_dlpack` looks into

    def __getitem__(self, index: Any) -> "ndarray":
        return ndarray(self.host[index], self._memory)

    def reshape(self, *shape: Any) -> "ndarray":
        view = self.host.reshape(*shape)
        assert np.shares_memory(view, self.host), "this reshape copies on the device"
        return ndarray(view, self._memory)

    def view(self, dtype: Any) -> "ndarray":
        return ndarray(self.host.view(dtype), self._memory)

    def transpose(self, axes: tuple[int, ...]) -> "ndarray":
        return ndarray(self.host.transpose(axes), self._memory)

    def copy(self) -> "ndarray":
        result = empty(self.shape, self.dtype)
        result[...] = self
        return result

    def fill(self, value: Any) -> None:
        host = self.host
        current().enqueue(lambda: host.fill(value), self.data.ptr)

    def astype(self, dtype: Any, copy: bool = True) -> "ndarray":
        if not copy and self.dtype == dtype:
            return self
        result = empty(self.shape, dtype)
        put(result, self)
        return result

    def set(self, host: np.ndarray, stream: Stream | None = None) -> None:
        assert host.dtype == self.dtype, (host.dtype, self.dtype)
        assert host.shape == self.shape, (host.shape, self.shape)
        assert host.flags.c_contiguous, "only contiguous memory can be copied"
        if stream is None:
            host = host.copy()  # CuPy stages pageable memory itself
        if (stream or current()).is_capturing():
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        target = self.host
        (stream or current()).enqueue(lambda: np.copyto(target, host))

    def get(self, stream: Stream | None = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        target = np.empty(self.shape, self.dtype) if out is None else out
        assert target.flags.c_contiguous
        if (stream or current()).is_capturing():
            raise RuntimeError("the current stream is capturing, so D2H transfers are disallowed")
        source = self.host
        (stream or current()).enqueue(lambda: np.copyto(target, source))
        if blocking:
            (stream or current()).synchronize()
        return target

    def __setitem__(self, index: Any, value: "ndarray") -> None:
        assert isinstance(value, ndarray)
        put(self[index], value)


def put(target: ndarray, source: ndarray) -> None:
    """Copy on the current stream."""
    to, of = target.host, source.host
    current().enqueue(lambda: np.copyto(to, of, casting="unsafe"), target.data.ptr, source.data.ptr)


def memcpy_async(to: int, of: int, size: int, kind: int, stream: int) -> None:
    """Of page-locked memory: with any other it would not be asynchronous, and could not be captured."""
    assert streams.allocated(to, size), "not on the device, and not page-locked"
    assert streams.allocated(of, size), "not on the device, and not page-locked"
    streams.Stream.at(stream).enqueue(lambda: ctypes.memmove(to, of, size), to, of)


class HostMemory:
    """Memory of others that is page-locked.

    Args:
        refuse: makes the error of a status.
    """

    def __init__(self, refuse: type[Exception]) -> None:
        self._refuse = refuse
        self.registered: dict[int, int] = {}
        self.limit = 2**40

    def register(self, address: int, size: int, flags: int) -> None:
        assert flags & 1, "of one device only"
        assert flags & 2, "without an address on devices"
        if address in self.registered:
            raise self._refuse(712)  # cudaErrorHostMemoryAlreadyRegistered
        if sum(self.registered.values()) + size > self.limit:
            raise self._refuse(2)  # cudaErrorMemoryAllocation
        self.registered[address] = size
        streams.allocate(address, size)

    def unregister(self, address: int) -> None:
        if address not in self.registered:
            raise self._refuse(713)  # cudaErrorHostMemoryNotRegistered
        streams.free(address, self.registered.pop(address))


class UnownedMemory:
    """Memory that somebody else has allocated, for as long as the owner lives."""

    def __init__(self, ptr: int, size: int, owner: Any, device_id: int) -> None:
        self.owner, self.device = owner, device_id
        self.block = np.frombuffer((ctypes.c_uint8 * size).from_address(ptr), np.uint8)


def pointer(memory: UnownedMemory, offset: int) -> MemoryPointer:
    """As CuPy makes a MemoryPointer."""
    made = MemoryPointer(memory.block[offset:])
    made.mem.owner, made.device = memory.owner, memory.device
    return made


def over(shape: Any, dtype: Any, memptr: MemoryPointer) -> ndarray:
    """As CuPy makes an ndarray."""
    return ndarray(np.ndarray(shape, dtype, memptr.block), memptr)


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    dtype, shape = np.dtype(dtype), tuple(np.atleast_1d(shape).tolist()) if np.ndim(shape) else (int(shape),)
    memory = ALLOCATOR.malloc(max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize))
    return ndarray(np.ndarray(shape, dtype, buffer=memory.block), memory)


def asarray(value: Any) -> ndarray:
    if isinstance(value, ndarray):
        return value
    result = empty(np.shape(value), np.asarray(value).dtype)
    result.set(np.ascontiguousarray(value))
    return result


def ascontiguousarray(value: ndarray) -> ndarray:
    if value.flags.c_contiguous:
        return value
    result = empty(value.shape, value.dtype)
    put(result, value)
    return result


def from_dlpack(value: Any) -> ndarray:
    assert value.__dlpack_device__()[0] == 2, "not a device array"
    capsule = value.__dlpack__()
    return capsule if isinstance(capsule, ndarray) else ndarray(np.from_dlpack(value))
