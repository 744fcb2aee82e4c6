"""What cuDNN offers for our graphs on an H100, asked without a GPU: nothing is run or timed.

    pip install nvidia-cudnn-frontend nvidia-cudnn-cu12 nvidia-cuda-runtime-cu12   # 700 MB
    python bench/cudnn_plans.py

cuDNN 9.8 and newer finds engines for a device that is described in JSON. So the graphs that the engine builds are held
against the library itself: its validation, and which of them an engine takes. Its libraries are linked to libcuda and
ask for a current device. gcc makes a libcuda and a libcudart that answer no more than that.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ACTIVATIONS, Activation, ConvSpec
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.cudnn import CudnnLibrary, Operations
from groupconv_worker.cuda.options import CudaOptions

H100 = {
    "deviceName": "NVIDIA H100",
    "deviceVer": 900,
    "driverVer": 13000,
    "multiProcessorCount": 132,
    "maxSharedMemoryPerBlock": 49152,
    "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024,
    "maxRegistersPerSM": 65536,
    "regsPerBlock": 65536,
    "l2CacheSize": 50 * 2**20,
    "warpSize": 32,
    "maxCtasPerSM": 32,
    "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048,
    "isTccDriver": 0,
    "supportCoopLaunch": 1,
    "smClockRateKHz": 1980000,
    "memClockRateKHz": 2619000,
    "memoryBusWidth": 5120,
    "maxGridSize": [2**31 - 1, 65535, 65535],
    "maxBlockSize": [1024, 1024, 64],
    "pciDeviceId": 0,
    "totalGlobalMem": 80 * 2**30,
    "cudaDeviceId": 0,
}
LIBCUDA = """
int cuInit(unsigned f) { return 0; }
int cuDriverGetVersion(int* v) { *v = 13000; return 0; }
int cuDeviceGetCount(int* n) { *n = 1; return 0; }
"""
LIBCUDART = """
int cudaGetDevice(int* d) { *d = 0; return 0; }
int cudaGetLastError(void) { return 0; }
const char* cudaGetErrorString(int e) { return "no device"; }
int cudaDeviceGetAttribute(int* v, int a, int d) { *v = a == 75 ? 9 : a == 16 ? 132 : 0; return 0; }
"""
REFUSES = "int {}(void) {{ return 100; }}\n"  # CUDA_ERROR_NO_DEVICE
WANTED = (
    "cuCtxGetCurrent cuCtxGetLimit cuCtxPopCurrent cuCtxPushCurrent cuDeviceGet cuGetErrorName cuGetErrorString "
    "cuKernelGetAttribute cuKernelGetFunction cuKernelSetAttribute cuLaunchCooperativeKernel cuLaunchKernel "
    "cuLaunchKernelEx cuLibraryGetKernel cuLibraryLoadData cuLibraryLoadFromFile cuLibraryUnload cuLinkAddData "
    "cuLinkComplete cuLinkCreate cuLinkDestroy cuModuleGetFunction cuModuleLoadData cuModuleUnload "
    "cuOccupancyMaxPotentialClusterSize cuStreamGetCtx cuTensorMapEncodeIm2col cuTensorMapEncodeTiled"
)
"""Functions without which the engines that compile kernels are not loaded."""
FLOATS = [("float16", None), ("bfloat16", None), ("float32", "tf32"), ("float32", None)]


def cudnn_without_a_device() -> Any:
    """The frontend, over stand-ins for the driver and the runtime."""
    folder = Path(tempfile.mkdtemp())
    refused = "".join(map(REFUSES.format, WANTED.split()))
    for name, source in (("libcuda.so.1", LIBCUDA + refused), ("libcudart.so.12", LIBCUDART)):
        (folder / "stub.c").write_text(source)
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, folder / "stub.c"]
        subprocess.run(command, check=True)
    ctypes.CDLL(str(folder / "libcuda.so.1"), ctypes.RTLD_GLOBAL)
    os.environ["CUDNN_FRONTEND_CUDART_LIB_NAME"] = str(folder / "libcudart.so.12")
    cudnn: Any = import_module("cudnn")

    device = cudnn.create_device_properties(json.dumps(H100))

    base: Any = cudnn.pygraph

    class Graph(base):
        def __init__(self, *, handle: Any, **kinds: Any) -> None:  # noqa: ARG002 - there is none without a device
            super().__init__(device_property=device, **kinds)

        def build_plans(self) -> None:
            """It needs a device."""

        def get_workspace_size(self) -> int:
            return 0

    cudnn.pygraph = Graph
    cudnn.create_handle = lambda: None
    return cudnn


def graphs() -> Iterator[tuple[str, Operations]]:
    """Names and graphs."""
    for dtype, math in FLOATS:
        for kind in (None, *ACTIVATIONS):
            spec = ConvSpec(padding=1, activation=kind and Activation(kind), math=math)
            for bias in sorted({dtype, "float32"}):
                yield f"{dtype} {math or ''}: bias {bias}, {kind}", _of(dtype, spec, DTYPES[bias])
        yield f"{dtype} {math or ''}: convolution alone", _of(dtype, ConvSpec(padding=1, math=math), None)
    for dtype in ("float16", "bfloat16"):
        for name, spec, x, w in (
            ("2 groups", ConvSpec(padding=1, groups=2, activation="relu"), (2, 64, 28, 28), (64, 32, 3, 3)),
            ("depthwise", ConvSpec(padding=1, groups=64, activation="relu"), (2, 64, 28, 28), (64, 1, 3, 3)),
            ("odd channels", ConvSpec(padding=1, activation="relu"), (2, 5, 28, 28), (7, 5, 3, 3)),
            ("1 axis", ConvSpec(padding=1, activation="relu"), (2, 64, 28), (64, 64, 3)),
            ("3 axes", ConvSpec(padding=1, activation="relu"), (2, 64, 8, 8, 8), (64, 64, 3, 3, 3)),
            (
                "transposed",
                ConvSpec(padding=1, stride=2, transposed=True, activation="relu"),
                (2, 64, 14, 14),
                (64, 32, 4, 4),
            ),
        ):
            yield f"{dtype}: bias {dtype}, relu, {name}", _of(dtype, spec, DTYPES[dtype], x, w)


def _of(
    dtype: str,
    spec: ConvSpec,
    bias: np.dtype | None,
    x: tuple[int, ...] = (2, 64, 28, 28),
    w: tuple[int, ...] = (64, 64, 3, 3),
) -> Operations:
    return Operations(Problem(resolve(spec, x, w), types_of(DTYPES[dtype], DTYPES[dtype])), bias)


def main() -> None:
    """Print a table."""
    sys.stdout.reconfigure(line_buffering=True)  # cuDNN may end the process
    library = CudnnLibrary(cudnn_without_a_device(), CudaOptions())
    print(f"cuDNN {library.version()}, frontend {library.module.__version__}, described: {H100['deviceName']}\n")
    print("| graph | plans | the first | is compiled when it is built |")
    print("| --- | ---: | --- | --- |")
    for name, operations in graphs():
        try:
            graph = library.build(operations).graph
        except library.unsupported:
            print(f"| {name} | none | | |")
            continue
        plans = range(graph.get_execution_plan_count())
        compiled = ["RUNTIME_COMPILATION" in str(graph.get_behavior_notes_for_plan_at_index(i)) for i in plans]
        print(f"| {name} | {len(plans)} | {graph.get_plan_name_at_index(0)} | {sum(compiled)} of {len(plans)} |")


if __name__ == "__main__":
    main()
