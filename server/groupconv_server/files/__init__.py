"""Arrays in files, read and written by rows: one small module for each family of formats.

`open_input` gives a feature map (N, C, *spatial) that is read as it is sliced; `create_output` one that is written as
it is filled. Neither holds the whole, but for PNG and JPEG, whose decoders know no parts.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv_server.files import hdf5, npy, photo, tiff, zarr
from groupconv_server.files.axes import Opened, Writable

FAMILIES: tuple[ModuleType, ...] = (npy, tiff, zarr, hdf5, photo)
"""Each has SUFFIXES, `open_input` and `create_output`; the last takes every other suffix."""


def family(path: Path) -> ModuleType:
    """The module for a path, by its suffix; HDF5 files may name an array inside: `scan.h5:/raw`.

    Example:
        >>> family(Path("a/slide.ome.tif")).__name__.split(".")[-1]
        'tiff'
    """
    name = str(path).partition(":/")[0].lower()
    inside = ".zarr/" in name  # an array of a group
    return next((f for f in FAMILIES if name.endswith(f.SUFFIXES) or (inside and f is zarr)), photo)


def open_input(path: Path, axes: str | None = None) -> AbstractContextManager[Opened]:
    """The array in a file.

    Args:
        path: of any format.
        axes: of the array in the file, one letter each: N or T samples, C or S channels, Z, Y, X; None believes the
            file, or guesses.

    Raises:
        InvalidArgumentError: no such array in it, or axes that do not fit.
        OSError: it cannot be read.
    """
    if not Path(str(path).partition(":/")[0]).exists():
        raise FileNotFoundError(2, "no such file", str(path))
    opened: AbstractContextManager[Opened] = family(path).open_input(path, axes)
    return opened


def create_output(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, *, alpha: bool
) -> AbstractContextManager[Writable]:
    """A file to be filled, in the order of its rows.

    It is written beside its path and replaces what is there once the context ends without an error.

    Args:
        path: of any format.
        shape: (N, M, *spatial).
        dtype: of what is written.
        alpha: whether the last channel is one.

    Raises:
        InvalidArgumentError: a format that cannot hold it, or a path that cannot be written.
        OSError: a disk that is full, or may not be written.
    """
    if shape[0] < 1 or len(shape) not in (4, 5):
        raise InvalidArgumentError("output", "an image or a volume", shape)
    created: AbstractContextManager[Writable] = family(path).create_output(path, shape, dtype, alpha=alpha)
    return created
