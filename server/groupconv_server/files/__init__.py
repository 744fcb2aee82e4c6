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
from groupconv_server.files.axes import Created, Layout, Opened, axes_of
from groupconv_server.files.metadata import UNKNOWN, Metadata
from groupconv_server.files.paths import split

FAMILIES: tuple[ModuleType, ...] = (npy, tiff, zarr, hdf5, photo)
"""Each has SUFFIXES, `open_input` and `create_output`; the last takes every other suffix."""


def family(path: Path) -> ModuleType:
    """The module for a path, by the suffix of its file; see `paths.split`.

    Example:
        >>> family(Path("a/slide.ome.tif")).__name__.split(".")[-1]
        'tiff'
    """
    name = str(split(path)[0]).lower()
    inside = ".zarr/" in name  # an array of a group
    return next((f for f in FAMILIES if name.endswith(f.SUFFIXES) or (inside and f is zarr)), photo)


def is_picture(path: Path) -> bool:
    """Whether a path is that of a picture, whose channels lie together, and not of an array.

    Example:
        >>> is_picture(Path("edges.png")), is_picture(Path("stack.tif"))
        (True, False)
    """
    return family(path) is photo


def any_order(path: Path) -> bool:
    """Whether an output can be filled along any axis; tiles of TIFF are written from the top left."""
    return family(path) in (npy, zarr, hdf5)


def open_input(path: Path, axes: str | None = None) -> AbstractContextManager[Opened]:
    """The array in a file.

    Args:
        path: of any format.
        axes: of the array in the file, letters or words with commas between (see `axes.WORDS`); None believes the
            file, or guesses.

    Raises:
        InvalidArgumentError: no such array in it, or axes that do not fit.
        OSError: it cannot be read.
    """
    path = Path(path)
    if not split(path)[0].exists():
        raise FileNotFoundError(2, "no such file", str(path))
    opened: AbstractContextManager[Opened] = family(path).open_input(path, axes)
    return opened


def size_of(path: Path) -> int:
    """Bytes of the file, or of all files in the folder, that holds an array."""
    name = split(path)[0]
    return sum(p.stat().st_size for p in name.rglob("*") if p.is_file()) if name.is_dir() else name.stat().st_size


def create_output(
    path: Path,
    layout: Layout | tuple[int, ...],
    dtype: np.dtype,
    metadata: Metadata = UNKNOWN,
    *,
    pyramid: bool = False,
) -> AbstractContextManager[Created]:
    """A file to be filled, in the order of its rows.

    It is written beside its path and replaces what is there once the context ends without an error.

    Args:
        path: of any format.
        layout: of the array in the file; or a shape (N, M, *spatial), which is its layout too.
        dtype: of what is written.
        metadata: what the file should say about it.
        pyramid: whether smaller copies are written too, in OME-Zarr.

    Raises:
        InvalidArgumentError: a format that cannot hold it, or a path that cannot be written.
        OSError: a disk that is full, or may not be written.
    """
    if not isinstance(layout, Layout):
        if len(layout) not in (4, 5):
            raise InvalidArgumentError("output", "an image or a volume", layout)
        layout = Layout(axes_of(layout, asked="ncyx" if len(layout) == 4 else "nczyx"))
    if layout.shape[0] < 1:
        raise InvalidArgumentError("output", "at least one sample", layout.shape)
    options = {}
    if pyramid:
        if not path.name.lower().endswith(zarr.IMAGE):
            raise InvalidArgumentError("pyramid", f"an output whose name ends in {zarr.IMAGE}", path.name)
        options["pyramid"] = True
    created: AbstractContextManager[Created] = family(path).create_output(path, layout, dtype, metadata, **options)
    return created
