"""Arrays in files, read and written by rows: one module for each family of formats.

`open_input` returns a feature map (N, C, *spatial) that is read as it is sliced, `create_output` one that is written as
it is filled. Only pictures (PNG, JPEG, …) are held in memory as a whole, because their codecs have no parts.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from groupconv.errors import GroupconvError, InvalidArgumentError
from groupconv_server.files import hdf5, npy, photo, tiff, zarr
from groupconv_server.files.arrays import Created, Opened
from groupconv_server.files.axes import axes_of
from groupconv_server.files.layout import Layout
from groupconv_server.files.metadata import UNKNOWN, Metadata
from groupconv_server.files.paths import split

FAMILIES: tuple[ModuleType, ...] = (npy, tiff, zarr, hdf5, photo)
"""Each module has SUFFIXES, ANY_ORDER, `open_input` and `create_output`. The last one also takes all other suffixes."""


def family(path: Path) -> ModuleType:
    """The module for a path, by the suffix of its file.

    Example:
        >>> family(Path("a/slide.ome.tif")).__name__.split(".")[-1]
        'tiff'
    """
    name = str(split(path)[0]).lower()
    inside = ".zarr/" in name  # an array in a group
    return next((f for f in FAMILIES if name.endswith(f.SUFFIXES) or (inside and f is zarr)), photo)


def is_picture(path: Path) -> bool:
    """Whether a path is that of a picture, which stores the channels of a pixel together.

    Example:
        >>> is_picture(Path("edges.png")), is_picture(Path("stack.tif"))
        (True, False)
    """
    return family(path) is photo


def any_order(path: Path) -> bool:
    """Whether an output can be filled along any axis of space, and not only from the top."""
    return bool(family(path).ANY_ORDER)


def open_input(path: Path, axes: str | None = None) -> AbstractContextManager[Opened]:
    """The array in a file.

    Args:
        path: of any format.
        axes: of the array in the file, as letters or as words separated by commas (see `axes.WORDS`). None means the
            names in the file or, if it has none, a guess.

    Raises:
        InvalidArgumentError: the file has no such array, the axes do not fit it, or the file is broken.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if not split(path)[0].exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return _opened(path, axes)


@contextmanager
def _opened(path: Path, axes: str | None) -> Iterator[Opened]:
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(family(path).open_input(path, axes))
        except (GroupconvError, OSError, MemoryError):
            raise
        except Exception as error:  # libraries raise many types of errors for broken files
            got = f"{path.name} ({type(error).__name__}: {error})"
            raise InvalidArgumentError("input", "a file that is complete and valid", got) from error
        yield opened


def size_of(path: Path) -> int:
    """Size in bytes of the file or folder that holds an array."""
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
    """Create a file that is filled in the order of its rows.

    The file is written beside its path, and replaces an older one when the context ends without an error.

    Args:
        path: of any format.
        layout: of the array in the file, or its shape (N, M, *spatial).
        dtype: of the values in the file.
        metadata: of the array; the file keeps what its format can hold.
        pyramid: whether OME-Zarr gets smaller copies too.

    Raises:
        InvalidArgumentError: the format cannot hold the array, or the path cannot be replaced.
        OSError: the disk is full or read-only.
    """
    if not isinstance(layout, Layout):
        if len(layout) not in (4, 5):
            raise InvalidArgumentError("output", "an image or a volume", layout)
        layout = Layout(axes_of(layout, requested="ncyx" if len(layout) == 4 else "nczyx"))
    if layout.shape[0] < 1:
        raise InvalidArgumentError("output", "at least one sample", layout.shape)
    options = {}
    if pyramid:
        if not path.name.lower().endswith(zarr.IMAGE):
            raise InvalidArgumentError("pyramid", f"an output whose name ends in {zarr.IMAGE}", path.name)
        options["pyramid"] = True
    created: AbstractContextManager[Created] = family(path).create_output(path, layout, dtype, metadata, **options)
    return created
