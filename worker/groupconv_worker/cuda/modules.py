"""Kernels by file and template arguments, compiled once per process.

NVRTC gets each source as one text with its headers inlined. That text is the key of CuPy's cache on disk, so a changed
header never meets an old binary, and no include path has to exist on the machine.
"""

import re
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from groupconv.errors import ResourceExhaustedError

FOLDER = Path(__file__).parent / "kernels"
STANDARD = "--std=c++17"
FLUSH = "-ftz=true"
"""CuPy adds it to each of its compilations: float32 results and operands below 2⁻¹²⁶ count as 0."""
MAX_BLOCKS = 2**31 - 1
"""Blocks in the first dimension of a grid. Source: CUDA C++ Programming Guide, technical specifications."""


@cache
def source(file: str) -> str:
    """The text of a kernel file, every `#include "…"` replaced by its file, once.

    Example:
        >>> "#include" in source("direct.cu")
        False
    """
    seen: set[str] = set()

    def inline(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return re.sub(r'^#include "(.+)"\n', lambda match: inline(match[1]), text, flags=re.MULTILINE)

    return inline(file)


class Kernels:
    """Compiles on first use. Safe to use from several threads.

    Args:
        cupy: the module.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._functions: dict[tuple[str, str], Any] = {}
        self._lock = Lock()

    def launch(
        self, file: str, expression: str, blocks: int, threads: int, arguments: tuple[Any, ...], shared: int = 0
    ) -> None:
        """Launch `expression` of `file` on the current stream.

        Args:
            file: a name in kernels/.
            expression: the kernel with its template arguments, as C++ names it.
            blocks: of the grid, in one dimension.
            threads: of a block.
            arguments: device arrays, NumPy scalars and 0-d structs (by value).
            shared: bytes of dynamic shared memory.

        Raises:
            ResourceExhaustedError: a grid larger than CUDA has.
        """
        if blocks > MAX_BLOCKS:
            raise ResourceExhaustedError(f"cuda: a grid of {blocks} blocks; at most {MAX_BLOCKS} can be launched")
        self._function(file, expression)((blocks,), (threads,), arguments, shared_mem=shared)

    def _function(self, file: str, expression: str) -> Any:
        key = (file, expression)
        if (ready := self._functions.get(key)) is not None:
            return ready  # without the lock: another thread may be compiling for a second
        with self._lock:
            if key not in self._functions:
                module = self._cupy.RawModule(
                    code=source(file), options=(STANDARD,), backend="nvrtc", name_expressions=[expression]
                )
                self._functions[key] = module.get_function(expression)
            return self._functions[key]
