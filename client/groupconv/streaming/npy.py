"""NumPy's .npy files as sources and sinks of streams."""

import math
import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from groupconv.errors import InvalidArgumentError, Words
from groupconv.streaming.raw import RawArray

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Readers of a header, by the version of the format. Version 3.0 has names of fields in Unicode, and no numbers."""


def open_npy(path: str | Path) -> RawArray:
    """An array that `numpy.save` has written, read by parts: a source for streams of maps that are larger than memory.

    A memory map (`numpy.load(path, mmap_mode="r")`) is one, too, but a program that shortens the file ends the process
    that has mapped it. Here it is a DataLossError.

    Args:
        path: of the file, which stays open until `close()`, or the end of a `with`.

    Raises:
        InvalidArgumentError: it is no array of numbers, or not complete.
        OSError: the file cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/x.npy", np.arange(12).reshape(3, 4))
        ...     with open_npy(f"{folder}/x.npy") as x:
        ...         x.shape, x[1, 1:3].tolist()
        ((3, 4), [5, 6])
    """
    path = Path(path)
    file = path.open("rb", buffering=0)
    try:
        return _array(file, path.name)
    except BaseException:
        file.close()
        raise


def _array(file: FileIO, name: str) -> RawArray:
    """The array behind the header of a file."""
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = HEADERS[version](file)
    except KeyError:
        found = Words(f"{name}, of version {'.'.join(map(str, version))}")
        raise InvalidArgumentError("input", "an array saved by numpy.save in version 1.0 or 2.0", found) from None
    except (ValueError, EOFError) as error:
        raise InvalidArgumentError("input", "an array saved by numpy.save", f"{name} ({error})") from None
    if any(size < 0 for size in shape):
        raise InvalidArgumentError("input", "an array saved by numpy.save", f"{name} of shape {shape}")
    if dtype.names is not None:
        record = Words(f"records with the fields {', '.join(dtype.names)}")
        raise InvalidArgumentError("input.dtype", "bool, integers or floats", record)
    if dtype.hasobject:
        raise InvalidArgumentError("input.dtype", "bool, integers or floats", Words("objects"))
    return RawArray(file, dtype, shape, file.tell(), fortran=fortran)


def create_npy(path: str | Path, shape: Sequence[int], dtype: DTypeLike = np.float32) -> RawArray:
    """A new file for `numpy.load`, written by parts: `out=` for streams of maps that are larger than memory.

    Args:
        path: of the file. One that is there is replaced when the new one has its space on the disk; arrays that were
            opened from the old one keep it, so that a stream's input may be its output.
        shape: of the array, which is 0 at first.
        dtype: of it.

    Raises:
        OSError: the file cannot be written, or the disk has no room for all of it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with create_npy(f"{folder}/y.npy", (2, 3)) as y:
        ...         y[1] = 5
        ...     np.load(f"{folder}/y.npy").tolist()
        [[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]]
    """
    kind, extents = np.dtype(dtype), tuple(map(int, shape))
    size = math.prod(extents) * kind.itemsize
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": extents}
    target = Path(path).resolve()
    new = target.with_name(f".{target.name}.{os.getpid()}.part") if target.is_file() else target
    file = new.open("wb+", buffering=0)
    try:
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        file.truncate(begin + size)
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), begin, size)
        if new != target:
            new.replace(target)
        return RawArray(file, kind, extents, begin)
    except BaseException:
        file.close()
        if new != target:
            new.unlink(missing_ok=True)
        raise
