"""Compiles CUDA kernels with g++ against emulation.h and calls them by pointer, as cuLaunchKernel would."""

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    target = CACHE / f"{_digest(text, header, *flags)}.so"
    with _made_once(target) as made:
        if not made:
            precompiled = _precompiled(header, sanitizer, flags).parent
            _compile(text, target, *flags, f"-I{precompiled}", f"-I{HERE}")
    return target


def _precompiled(header: str, sanitizer: str, flags: tuple[str, ...]) -> Path:
    """emulation.h as g++ has read it: that takes 0.7 s, which is more than most kernels do."""
    name = f"header-{sanitizer}"
    target = CACHE / f"{name}-{_digest(header, *flags)}" / "emulation.h.gch"
    with _made_once(target) as made:
        if not made:
            for old in set(CACHE.glob(f"{name}-*")) - {target.parent}:  # 60 MB each
                shutil.rmtree(old, ignore_errors=True)
            _compile(header, target, *flags, "-x", "c++-header")
    return target


@contextmanager
def _made_once(target: Path) -> Iterator[bool]:
    """Whether a file is there. If not, other processes that want it wait until the caller has made it."""
    if target.exists():
        yield True
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{target.parent.name}-{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield target.exists()


def _compile(text: str, target: Path, *options: str) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        code, built = Path(folder) / "code.cpp", Path(folder) / "built"
        code.write_text(text)
        # the runtime of a sanitizer is for the kernels, and would slow the compiler down
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        command = ["g++", *options, str(code), "-o", str(built)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"g++ refused {text[-1000:]}:\n{done.stderr[:4000]}")
        built.replace(target)  # atomic: it is whole, or not there


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
