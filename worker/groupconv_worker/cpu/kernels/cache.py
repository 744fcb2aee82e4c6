"""Compiled kernels on disk: used again while what they are built from is the same, and made again if damaged.

Numba's own cache is not used: it ends the process where no folder can be written or a file was cut short, it does not
notice damaged machine code, and processes that compile at the same time write over each other's index. Here a kernel
is one file, replaced atomically. Its name is a digest of all it depends on, its first bytes are a checksum.
"""

import contextlib
import hashlib
import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import njit
from numba.core.caching import Cache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from groupconv_worker.cache_folder import cache_folder, check_private, make_private
from groupconv_worker.code_version import digest
from groupconv_worker.cpu.kernels.forms import check_compile
from groupconv_worker.cpu.kernels.simd import WIDTH
from groupconv_worker.cpu.kernels.startup import load_numba

load_numba()
log = logging.getLogger(__name__)

VARIABLE = "NUMBA_CACHE_DIR"
"""Numba's own variable: a folder to use instead of the user's cache directory."""
SPARE = "GROUPCONV_SPARE_KERNELS"
"""Variable with a folder for kernels where the cache cannot be written: a process hands it to the one that compiles."""
SHIPPED = Path(sys.prefix, "share", "groupconv-kernels")
"""Kernels that came with the installation, as in the images. Nothing is written here."""
SUFFIX = ".kernel"
CAPACITY = 512 * 2**20
"""Bytes of the folder: beyond them the kernels leave that were written first."""


class KernelCache(Cache):  # type: ignore[misc]
    """What Numba asks for a kernel before it compiles it, and gives it to afterwards.

    Args:
        function: the kernel, uncompiled. Its closure's values are part of what it is.
    """

    def __init__(self, function: Any) -> None:
        self._py_func = function  # _index_key's
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__.rpartition('.')[2]}"

    @property
    def cache_path(self) -> str:
        """The folder, for Numba's statistics."""
        return str(folders()[:1])

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """A compiled kernel; None has Numba compile it.

        Raises:
            NotCompiledError: it is not there, and this thread must not compile it.
        """
        target_context.refresh()
        overload = self._read(self._file(sig, target_context.codegen()), target_context)
        if overload is None:
            check_compile()
        return overload

    def _read(self, name: str, target_context: Any) -> Any:
        for folder in (*folders(), SHIPPED):
            with contextlib.suppress(OSError):
                check_private(folder)
                overload = self._rebuild(folder / name, (folder / name).read_bytes(), target_context)
                if overload is not None:
                    return overload
        return None

    def _rebuild(self, path: Path, content: bytes, target_context: Any) -> Any:
        try:
            checksum, payload = content[:32], content[32:]
            if hashlib.sha256(payload).digest() != checksum:
                raise ValueError("another checksum than it says")  # noqa: TRY301
            return CompileResult._rebuild(target_context, *pickle.loads(payload))  # noqa: SLF001, S301 - private
        except Exception as error:  # noqa: BLE001 - of another build of Numba, it may fail in any way
            log.warning("%s is damaged (%s) and is compiled again", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled kernel. One that cannot be kept is no reason to fail."""
        if data.library.has_dynamic_globals:
            return
        payload = dumps(data._reduce())  # noqa: SLF001
        content, failed = hashlib.sha256(payload).digest() + payload, "there is no folder for them"
        for folder in folders():
            try:
                make_private(folder)
                _write(folder / self._file(sig, data.codegen), content)
                _make_room(folder)
            except OSError as error:
                failed = str(error)
            else:
                return
        _say_once(f"compiled kernels are kept in memory alone: {failed}")

    def _file(self, sig: Any, codegen: Any) -> str:
        built_from = (numba.__version__, digest("cpu/**/kernels/*.py"), WIDTH, self._index_key(sig, codegen))
        return f"{self._name[:80]}-{hashlib.sha256(dumps(built_from)).hexdigest()[:32]}{SUFFIX}"


def compiled(signature: Any) -> Callable[[Any], Any]:
    """`numba.njit` for one signature: compiled at once, without the interpreter's lock while it runs, kept on disk."""

    def compile_(function: Any) -> Any:
        kernel = njit(nogil=True, error_model="numpy")(function)
        kernel._cache = KernelCache(function)  # noqa: SLF001 - as its `cache=True` sets Numba's
        kernel.compile(signature)
        kernel.disable_compile()
        return kernel

    return compile_


def callback(signature: Any, function: Any) -> Any:
    """`numba.cfunc`: a kernel that compiled code calls by its address, kept on disk."""
    kernel: Any = CFunc(function, normalize_signature(signature), locals={}, options={"error_model": "numpy"})
    kernel._cache = KernelCache(function)  # noqa: SLF001
    kernel.compile()
    return kernel


def folders() -> list[Path]:
    """Where kernels are looked for: the cache, and the spare folder if there is one. Writing takes the first it can."""
    asked, spare = os.environ.get(VARIABLE), os.environ.get(SPARE)
    first = Path(asked).absolute() / "groupconv-kernels" if asked else cache_folder("kernels")
    return [folder for folder in (first, Path(spare) if spare else None) if folder is not None]


def spare_folder() -> dict[str, str]:
    """The variable that names a spare folder, made and set if the cache cannot be written; it lives as the process."""
    if SPARE not in os.environ and not any(_writable(folder) for folder in folders()):
        made = tempfile.TemporaryDirectory(prefix="groupconv-kernels-")
        _spares.append(made)
        os.environ[SPARE] = made.name
    return {SPARE: os.environ[SPARE]} if SPARE in os.environ else {}


def _writable(folder: Path) -> bool:
    try:
        make_private(folder)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part"):
            return True
    except OSError:
        return False


def _write(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        part = Path(file.name)
        try:
            file.write(content)
            file.close()
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _make_room(folder: Path) -> None:
    """Remove what was written first until the folder holds no more than it may; other processes may do so, too."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            facts = path.stat()
            files.append((facts.st_mtime_ns, facts.st_size, path))
    size = sum(of for _, of, _ in files)
    for _, of, path in sorted(files):
        if size <= CAPACITY:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        size -= of


_spares: list[tempfile.TemporaryDirectory[str]] = []
_said: set[str] = set()


def _say_once(message: str) -> None:
    if not _said:
        _said.add(message)
        log.warning(message)
