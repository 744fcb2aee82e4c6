"""Device memory: a pool with a limit, and arrays that refuse to be used on the host by mistake, as CuPy's do."""

import ctypes
import threading
import weakref
from contextlib import contextmanager
from typing import Any

import numpy as np

from emulation.streams import Stream, current


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size} bytes (allocated so far: {total}, limit: {limit}).")


class MemoryPool:
    def __init__(self) -> None:
        self._limit, self._used = 0, 0
        self.peak = 0
        self._lock = threading.RLock()  # the garbage collector may free in the middle of malloc

    def set_limit(self, size: int | None = None) -> None:
        self._limit = size or 0

    def malloc(self, size: int) -> np.ndarray:
        with self._lock:
            if self._limit and self._used + size > self._limit:
                raise OutOfMemoryError(size, self._used, self._limit)
            self._used += size
            self.peak = max(self.peak, self._used)
        memory = (ctypes.c_uint8 * max(size, 32))()  # ctypes keeps smaller ones in the object, and aligns them less
        block = np.frombuffer(memory, dtype=np.uint8, count=size)
        block.fill(0xFF)  # NaN: a read before the first write is seen
        weakref.finalize(block, self._release, memory, current())
        return block

    def _release(self, memory: Any, stream: Stream) -> None:
        """Freed memory is the stream's until what was queued before has run, as in CuPy's pools."""
        stream.enqueue(lambda: ctypes.sizeof(memory))
        with self._lock:
            self._used -= ctypes.sizeof(memory)

    def used_bytes(self) -> int:
        return self._used

    def free_all_blocks(self) -> None:
        pass


class PinnedMemoryPool:
    def malloc(self, size: int) -> np.ndarray:
        return np.full(size, 0xFF, dtype=np.uint8)

    def free_all_blocks(self) -> None:
        pass


class _Allocator(threading.local):
    def __init__(self) -> None:
        self.malloc = MemoryPool().malloc


ALLOCATOR = _Allocator()


@contextmanager
def using_allocator(malloc: Any):
    before, ALLOCATOR.malloc = ALLOCATOR.malloc, malloc
    try:
        yield
    finally:
        ALLOCATOR.malloc = before


class MemoryPointer:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class ndarray:  # noqa: N801 - CuPy's name
    """A device array over host memory. `host` is for the stand-in alone."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    ndim = property(lambda self: self.host.ndim)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    data = property(lambda self: MemoryPointer(self.host.ctypes.data))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)  # kDLCUDA

    def __dlpack__(self, **_: Any) -> Any:
        return self.host.__dlpack__()

    def __getitem__(self, index: Any) -> "ndarray":
        return ndarray(self.host[index])

    def reshape(self, *shape: Any) -> "ndarray":
        view = self.host.reshape(*shape)
        assert np.shares_memory(view, self.host), "this reshape copies on the device"
        return ndarray(view)

    def view(self, dtype: Any) -> "ndarray":
        return ndarray(self.host.view(dtype))

    def transpose(self, axes: tuple[int, ...]) -> "ndarray":
        return ndarray(self.host.transpose(axes))

    def copy(self) -> "ndarray":
        result = empty(self.shape, self.dtype)
        result[...] = self
        return result

    def fill(self, value: Any) -> None:
        current().enqueue(lambda: self.host.fill(value))

    def astype(self, dtype: Any, copy: bool = True) -> "ndarray":
        if not copy and self.dtype == dtype:
            return self
        result = empty(self.shape, dtype)
        current().enqueue(lambda: np.copyto(result.host, self.host, casting="unsafe"))
        return result

    def set(self, host: np.ndarray, stream: Stream | None = None) -> None:
        assert host.dtype == self.dtype, (host.dtype, self.dtype)
        assert host.shape == self.shape, (host.shape, self.shape)
        assert host.flags.c_contiguous, "only contiguous memory can be copied"
        if stream is None:
            host = host.copy()  # CuPy stages pageable memory itself
        (stream or current()).enqueue(lambda: np.copyto(self.host, host))

    def get(self, stream: Stream | None = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        target = np.empty(self.shape, self.dtype) if out is None else out
        assert target.flags.c_contiguous
        (stream or current()).enqueue(lambda: np.copyto(target, self.host))
        if blocking:
            (stream or current()).synchronize()
        return target

    def __setitem__(self, index: Any, value: "ndarray") -> None:
        assert isinstance(value, ndarray)
        current().enqueue(lambda: self.host.__setitem__(index, value.host))


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    dtype, shape = np.dtype(dtype), tuple(np.atleast_1d(shape).tolist()) if np.ndim(shape) else (int(shape),)
    memory = ALLOCATOR.malloc(max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize))
    return ndarray(np.ndarray(shape, dtype, buffer=memory))


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
    current().enqueue(lambda: np.copyto(result.host, value.host))
    return result


def from_dlpack(value: Any) -> ndarray:
    assert value.__dlpack_device__()[0] == 2, "not a device array"
    return value if isinstance(value, ndarray) else ndarray(np.from_dlpack(value))
