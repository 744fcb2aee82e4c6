"""The names of CuPy that the cuda engine uses, played by NumPy and g++. Nothing more than it uses is here.

    cupy.empty asarray ascontiguousarray from_dlpack ndarray RawModule
    cupy.fft.rfftn irfftn config.get_plan_cache
    cupy.cuda.is_available Device Stream Event MemoryPool PinnedMemoryPool MemoryPointer UnownedMemory using_allocator
    cupy.cuda.get_current_stream get_elapsed_time get_allocator alloc
    cupy.cuda.runtime.getDeviceProperties deviceSynchronize getDeviceCount CUDARuntimeError driverGetVersion
    cupy.cuda.runtime.runtimeGetVersion memGetInfo
    cupy.cuda.runtime.memcpyAsync memcpyHostToDevice memcpyDeviceToHost memcpyDefault hostRegister hostUnregister
    cupy.cuda.runtime.ipcOpenMemHandle ipcCloseMemHandle memcpy
    cupy.cuda.runtime.CUDA_R_16F CUDA_R_16BF CUDA_R_32F CUDA_R_64F
    cupy.cuda.driver.CUDADriverError
    cupy.cuda.memory.OutOfMemoryError
    cupy.cuda.device.get_cublas_handle
    cupy.cuda.cublas: its file, constants and CUBLASError

Where CuPy would refuse, it refuses: a NumPy array as a kernel argument, a device array where a host array is
meant, a copy that is not contiguous. Streams are lazy (streams.py), memory begins as NaN (memory.py).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Self

from emulation import cublas, cudnn, cufft, kernels, memory, streams
from emulation.ipc import Ipc


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError{status}")
        self.status = status


class CUDADriverError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"CUresult{status}")
        self.status = status


class Device:
    """A small one: two multiprocessors, so that small tests fill it."""

    def __init__(self, device: int | None = None) -> None:
        self.id = streams.current_device() if device is None else device
        self.attributes = {"MultiProcessorCount": 2}
        self.compute_capability = "90"

    def __enter__(self) -> Self:
        streams.CURRENT.devices.append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        streams.CURRENT.devices.pop()


def cupy(devices: int = 1) -> ModuleType:
    """A fresh module called cupy, which sees so many devices."""
    module = ModuleType("cupy")
    module.__version__ = "14.2"
    ipc = Ipc(CUDARuntimeError)
    host = memory.HostMemory(CUDARuntimeError)
    module.ipc, module.host = ipc, host  # type: ignore[attr-defined] - for tests, which play others and look inside
    module.__dict__.update(
        ndarray=memory.over,
        empty=memory.empty,
        asarray=memory.asarray,
        ascontiguousarray=memory.ascontiguousarray,
        from_dlpack=memory.from_dlpack,
        RawModule=kernels.RawModule,
        fft=cufft.fft,
        cuda=SimpleNamespace(
            is_available=lambda: True,
            Device=Device,
            Stream=streams.Stream,
            Event=streams.Event,
            MemoryPool=memory.MemoryPool,
            MemoryPointer=memory.pointer,
            UnownedMemory=memory.UnownedMemory,
            PinnedMemoryPool=memory.PinnedMemoryPool,
            using_allocator=memory.using_allocator,
            get_allocator=memory.get_allocator,
            alloc=memory.alloc,
            get_current_stream=streams.current,
            get_elapsed_time=lambda start, end: (end.time - start.time) * 1e3,
            memory=SimpleNamespace(OutOfMemoryError=memory.OutOfMemoryError),
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            device=SimpleNamespace(get_cublas_handle=lambda: cublas.HANDLE),
            cublas=cublas.cublas,
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                deviceSynchronize=lambda: None,
                ipcOpenMemHandle=ipc.open_handle,
                ipcCloseMemHandle=ipc.close_handle,
                memcpy=ipc.memcpy,
                memcpyAsync=memory.memcpy_async,
                hostRegister=host.register,
                hostUnregister=host.unregister,
                memcpyHostToDevice=1,
                memcpyDeviceToHost=2,
                memcpyDefault=4,
                getDeviceCount=lambda: devices,
                memGetInfo=lambda: (2**30, 2**30),
                driverGetVersion=lambda: 13000,
                runtimeGetVersion=lambda: 13000,
                getDeviceProperties=lambda _: {"name": b"emulation", "totalGlobalMem": 2**30},
                CUDA_R_32F=0,
                CUDA_R_64F=1,
                CUDA_R_16F=2,
                CUDA_R_16BF=14,
            ),
        ),
    )
    return module


@contextmanager
def as_cupy(*, with_cudnn: bool = False, devices: int = 1) -> Iterator[ModuleType]:
    """`import cupy` gives the stand-in inside; a real CuPy is there again afterwards. `cudnn` likewise, or none."""
    module = cupy(devices)
    inside = {"cupy": module, "cudnn": cudnn if with_cudnn else None}  # None: import raises ImportError
    before = {name: sys.modules[name] for name in inside if name in sys.modules}
    sys.modules.update(inside)  # type: ignore[arg-type]
    try:
        yield module
    finally:
        for name in inside:
            del sys.modules[name]
        sys.modules.update(before)
