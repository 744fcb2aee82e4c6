"""libcuda.so.1 for `groupconv.gpu.driver`, over host memory: a client's allocations, and work on its streams."""

import ctypes
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from emulation import memory as memory_of
from emulation.ipc import Ipc, export
from emulation.streams import Stream, allocated
from groupconv.gpu import driver as cuda

UUID = bytes(range(16))  # it begins with a zero, where CuPy's own properties end it
CONTEXT = 0xC0
"""Of device 0; the next device has the next one."""
INVALID_VALUE, INVALID_CONTEXT = 1, 201
_NAMES = {1: "context", 2: "kind", 7: "id", 8: "managed", 9: "ordinal", 10: "shareable", 11: "base", 12: "size"}


class Libcuda:
    """Devices with a context each. Two of the server's CuPy are two of these, too.

    Args:
        ipc: of the stand-in for CuPy in the server.
    """

    def __init__(self, ipc: Ipc) -> None:
        self._ipc = ipc
        self._ids = itertools.count(1)
        self._allocations: dict[int, tuple[np.ndarray, dict[str, int]]] = {}
        self._contexts: list[int | None] = []
        self.queued: dict[int, deque[Callable[[], Any]]] = {}

    def allocate(self, nbytes: int, device: int = 0, **attributes: int) -> np.ndarray:
        """Memory of a device, as its bytes; some attributes may be said to be others."""
        memory = np.zeros(nbytes + 256, np.uint8)
        memory = memory[-memory.ctypes.data % 256 :][:nbytes]
        base = memory.ctypes.data
        usual = {"context": CONTEXT + device, "kind": 2, "ordinal": device, "shareable": 1, "base": base}
        self._allocations[base] = memory, {**usual, "id": next(self._ids), "size": nbytes, **attributes}
        return memory

    def free(self, address: int) -> None:
        """What begins there."""
        del self._allocations[address]

    def queue(self, stream: int, work: Callable[[], Any]) -> None:
        """Work that is done when somebody waits for it."""
        self.queued.setdefault(stream, deque()).append(work)

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0

    def cuPointerGetAttributes(self, count: int, names: Any, places: Any, pointer: Any) -> int:  # noqa: N802
        found: dict[str, int] = {}
        for base, (memory, attributes) in self._allocations.items():
            if base <= pointer.value < base + memory.nbytes:
                found = attributes
        for base, (size, device, number) in list(memory_of.ON_DEVICE.items()):
            if base <= pointer.value < base + size:
                found = {"context": CONTEXT + device, "kind": 2, "id": number, "ordinal": device, "shareable": 1}
                found |= {"base": base, "size": size}
        for i in range(count):
            ctypes.c_uint64.from_address(places[i]).value = found.get(_NAMES[names[i]], 0)
        return 0

    def cuIpcGetMemHandle(self, handle: Any, base: Any) -> int:  # noqa: N802
        if memory_of.PAGES and base.value in memory_of.ON_DEVICE:
            handle.raw = export(base.value, memory_of.ON_DEVICE[base.value][0])
            return 0
        if base.value not in self._allocations:
            return INVALID_VALUE
        if self._contexts[-1:] != [CONTEXT + self._allocations[base.value][1]["ordinal"]]:
            return INVALID_CONTEXT
        handle.raw = self._ipc.share(self._allocations[base.value][0])
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = ordinal
        return 0

    def cuDeviceGetUuid_v2(self, uuid: Any, device: Any) -> int:  # noqa: N802
        uuid.raw = UUID[:-1] + bytes([UUID[-1] + device.value])
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:  # noqa: N802
        context._obj.value = CONTEXT + device
        return 0

    def cuCtxPushCurrent_v2(self, context: Any) -> int:  # noqa: N802
        self._contexts.append(context.value)
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        self._contexts.pop()
        return 0

    def cuCtxSynchronize(self) -> int:  # noqa: N802
        for stream in list(self.queued):
            self._run(stream)
        return 0 if self._contexts else INVALID_CONTEXT

    def cuStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        self._run(stream.value or 0)
        return 0 if self._contexts else INVALID_CONTEXT

    def cuDeviceGetAttribute(self, found: Any, name: int, device: Any) -> int:  # noqa: N802
        assert name == 122, "values of 64 bits"
        found._obj.value = 1
        return 0

    def cuMemHostGetDevicePointer_v2(self, found: Any, address: Any, flags: int) -> int:  # noqa: N802
        found._obj.value = address.value
        return 0 if allocated(address.value) else INVALID_VALUE

    def cuStreamWaitValue64_v2(self, stream: Any, address: Any, value: Any, flags: int) -> int:  # noqa: N802
        assert flags == 0, "at least the value"
        Stream.at(stream.value or 0).wait_value(address.value, value.value)
        return 0

    def cuStreamWriteValue64_v2(self, stream: Any, address: Any, value: Any, flags: int) -> int:  # noqa: N802
        assert flags == 0, "after what was written before"
        Stream.at(stream.value or 0).write_value(address.value, value.value)
        return 0

    def cuMemcpyDtoH_v2(self, to: Any, of: Any, size: Any) -> int:  # noqa: N802
        ctypes.memmove(to.value, of.value, size.value)
        return 0 if self._contexts else INVALID_CONTEXT

    def cuMemcpyHtoD_v2(self, to: Any, of: Any, size: Any) -> int:  # noqa: N802
        data = ctypes.string_at(of.value, size.value)
        self.queue(0, lambda: ctypes.memmove(to.value, data, len(data)))  # staged; it is there later
        return 0 if self._contexts else INVALID_CONTEXT

    def _run(self, stream: int) -> None:
        work = self.queued.pop(stream, deque())
        while work:
            work.popleft()()


class OnDevice:
    """An array of the client's on its device, as other libraries' arrays are seen.

    Args:
        array: a view of allocated memory.
        stream: what its interface says; none if it is left out.
    """

    def __init__(self, array: np.ndarray, **stream: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        strides = None if array.flags.c_contiguous else array.strides
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": strides,
            "version": 3 if stream else 2,
            **stream,
        }

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array.copy()


@contextmanager
def as_libcuda(ipc: Ipc) -> Iterator[Libcuda]:
    """The driver that this process finds, until the end."""
    library = Libcuda(ipc)
    driver = cuda.Driver(library)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_driver", lambda: driver)
        yield library
