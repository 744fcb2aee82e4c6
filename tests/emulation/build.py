"""Compiles CUDA kernels with g++ against emulation.h and calls them by pointer, as cuLaunchKernel would."""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("GROUPCONV_EMULATION_CACHE", HERE.parent.parent / ".pytest_cache" / "emulation"))
FLAGS = ("-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-w")
PARAMETERS = (
    "const unsigned* grid, const unsigned* block, unsigned shared, bool descending, void** values, const int* sizes,"
    " int count"
)
SANITIZERS = {
    "": (),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1"),
    "thread": ("-fsanitize=thread", "-g1", "-DEMULATION_THREADS"),
}


def library(source: str, expressions: tuple[str, ...], sanitizer: str = "") -> ctypes.CDLL:
    """A shared library with `launch_0`, `launch_1`, … for the kernels, compiled unless it was before."""
    text = '#include "emulation.h"\n' + source
    for i, expression in enumerate(expressions):
        call = f"emulation::launch({expression}, grid, block, shared, descending, values, sizes, count)"
        text += f'extern "C" int launch_{i}({PARAMETERS}) {{ return {call}; }}\n'
    return ctypes.CDLL(str(compiled(text, sanitizer)))


def compiled(text: str, sanitizer: str = "") -> Path:
    """The path of the shared library of some C++."""
    flags = (*FLAGS, *SANITIZERS[sanitizer])
    header = (HERE / "emulation.h").read_text()
    key = hashlib.sha256("\0".join((text, header, *flags)).encode()).hexdigest()[:24]
    target = CACHE / f"{key}.so"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            code, built = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            code.write_text(text)
            done = subprocess.run(
                ["g++", *flags, f"-I{HERE}", str(code), "-o", str(built)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"g++ refused {text[-1000:]}:\n{done.stderr[:4000]}")
            built.replace(target)  # atomic: another test process may build the same
    return target
