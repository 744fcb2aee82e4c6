"""`import cupy` in other processes, which have this folder on PYTHONPATH: the stand-in, its cuDNN and its libcuda."""

import sys
from typing import Any

from emulation import cudnn, memory, stand_in, streams
from emulation.libcuda import Libcuda
from groupconv.gpu import driver

module = stand_in.cupy()
sys.modules["cupy"], sys.modules["cudnn"] = module, cudnn
found = driver.Driver(Libcuda(module.ipc))
driver._driver = lambda: found


def interface(array: Any) -> dict[str, Any]:
    """As clients see an array, with nothing queued. CUDA cannot share such memory, so it goes through the host."""
    streams.current().synchronize()
    strides = None if array.flags.c_contiguous else array.strides
    described = {"shape": array.shape, "typestr": array.dtype.str, "strides": strides, "version": 3, "stream": None}
    return {**described, "data": (array.data.ptr, False)}


memory.ndarray.__cuda_array_interface__ = property(interface)  # type: ignore[attr-defined]
