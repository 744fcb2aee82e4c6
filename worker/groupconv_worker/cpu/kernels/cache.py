"""Compiled kernels on disk, used again while every file that a kernel may be built from is the same.

Numba looks at the file that has the kernel, but what its intrinsics emit stands in others (simd.py, atomic.py): with
those changed, the kernel on disk is another one than the code says.
"""

from pathlib import Path
from typing import Any

from numba.core.caching import CacheImpl

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
