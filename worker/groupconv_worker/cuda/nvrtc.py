"""Compiles kernels to machine code without a device, and reads the report of the compiler.

CuPy compiles for the device at hand; this compiles for any, through NVRTC alone (the nvidia-cuda-nvrtc wheel), so
that every kernel can be checked for every architecture on a machine without a GPU.
"""

import ctypes
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from groupconv_worker.cuda.modules import STANDARD, source

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Turing, A100, RTX 30, RTX 40, H100, B200, RTX 50."""


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """The report of ptxas on one kernel.

    Attributes:
        registers: of a thread.
        shared: static bytes of a block.
        spilled: bytes that a thread stores in local memory because registers are full.
        stack: bytes of local memory, spills included.
    """

    registers: int
    shared: int
    spilled: int
    stack: int


def compile_kernels(file: str, expressions: Iterable[str], architecture: int) -> dict[str, CompiledKernel]:
    """Compile `expressions` of a kernel file to a cubin for one architecture.

    Args:
        file: a name in kernels/.
        expressions: kernels with their template arguments.
        architecture: 90 for sm_90.

    Returns:
        The reports, by expression.

    Raises:
        RuntimeError: the sources do not compile; the message is the compiler's log.
    """
    nvrtc, names = library(), list(expressions)
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source(file).encode(), file.encode(), 0, None, None)
    try:
        for name in names:
            nvrtc.nvrtcAddNameExpression(program, name.encode())
        options = [f"--gpu-architecture=sm_{architecture}".encode(), STANDARD.encode(), b"--ptxas-options=-v"]
        status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        if status != 0:
            raise RuntimeError(f"{file} for sm_{architecture}:\n{log}")
        lowered = {_lowered(program, name): name for name in names}
        return {lowered[symbol]: found for symbol, found in _reports(log) if symbol in lowered}
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def library() -> ctypes.CDLL:
    """libnvrtc of the installed wheel.

    Raises:
        ImportError: there is none.
    """
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob("*/lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    raise ImportError("libnvrtc is not installed (pip install nvidia-cuda-nvrtc)")


def _reports(log: str) -> list[tuple[str, CompiledKernel]]:
    """Each entry function of a ptxas -v log."""
    found = []
    for part in log.split("Compiling entry function '")[1:]:
        symbol = part[: part.index("'")]
        numbers = [
            int(match[1]) if (match := re.search(pattern, part)) else 0
            for pattern in (
                r"Used (\d+) registers",
                r"(\d+) bytes smem",
                r"(\d+) bytes spill stores",
                r"(\d+) bytes stack",
            )
        ]
        found.append((symbol, CompiledKernel(*numbers)))
    return found


def _lowered(program: ctypes.c_void_p, name: str) -> str:
    symbol = ctypes.c_char_p()
    library().nvrtcGetLoweredName(program, name.encode(), ctypes.byref(symbol))
    return (symbol.value or b"").decode()


def _text(size_of: Any, read: Any, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    read(program, buffer)
    return buffer.value.decode()
