"""Compiled kernels on disk, used again while every file that a kernel may be built from is the same.

Numba looks at the file that has the kernel, but what its intrinsics emit stands in others (simd.py, atomic.py): with
those changed, the kernel on disk is another one than the code says.
"""

import pickle
from pathlib import Path
from typing import Any

from numba.core.caching import CacheImpl, FunctionCache

from groupconv_worker.code_version import digest
from groupconv_worker.cpu.kernels.simd import WIDTH

HERE = Path(__file__).parent


class Locator:
    """Finds the place that Numba would, for functions of this folder, with a stamp of all that they are built from."""

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        """A place for the function's compiled form; None leaves it to Numba."""
        if Path(file).parent != HERE:
            return None
        places = (one.from_function(function, file) for one in _numbas)
        found = next((place for place in places if place is not None), None)
        if found is not None:
            found.get_source_stamp = lambda: f"{digest('cpu/kernels/*.py')} {WIDTH}"
        return found


_numbas = list(CacheImpl._locator_classes)  # noqa: SLF001 - its variable for others replaces them in every package
CacheImpl._locator_classes.insert(0, Locator)  # noqa: SLF001


def has(function: Any) -> bool:
    """Whether a function's compiled form is on disk."""
    try:
        return bool(FunctionCache(function)._cache_file._load_index())  # noqa: SLF001 - it has no other way to look
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError):  # no place for it, or a damaged one
        return False
