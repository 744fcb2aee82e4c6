"""HDF5, netCDF 4, MATLAB 7.3 and Imaris: `scan.h5`, or `scan.h5:/group/array` where it holds several arrays."""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.streaming.raw import became_shorter
from groupconv_server.files.arrays import Created, Opened
from groupconv_server.files.attributes import attribute_notes
from groupconv_server.files.axes import axes_of, guess_axes
from groupconv_server.files.blocks import BlockReader, BlockWriter, chunks_for
from groupconv_server.files.extras import needed
from groupconv_server.files.layout import Layout, View
from groupconv_server.files.metadata import Metadata, missing
from groupconv_server.files.output import allocate, check_space, replaced
from groupconv_server.files.paths import split

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nc", ".nc4", ".mat", ".ims", ".h5ad", ".nxs")
ANY_ORDER = True
LISTED = 12
"""Largest number of arrays listed in a message."""
READ_ONLY = (".nc", ".nc4", ".mat", ".ims", ".h5ad", ".nxs")
"""Formats on top of HDF5. They are read but not written: they hold more than an array."""
OLDER = {
    b"\x89HDF": "HDF5 that is damaged or cut off",
    b"CDF": "netCDF 3; make it netCDF 4: nccopy -k nc4 OLD NEW",
    b"MATLAB 5.0": "of an older MATLAB; save it with -v7.3",
    b"\x0e\x03\x13\x01": "HDF 4; make it HDF5: h4toh5",
}
"""First bytes of files with these suffixes that cannot be opened, and what they are."""
NAME = "/data"
"""Path in the file of the array that is written, unless the output names another."""


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    h5py = needed("h5py", "to read HDF5")
    name, inside = split(path)
    try:
        file = h5py.File(name, "r")
    except OSError as error:
        if error.errno and error.errno != errno.ENOENT:
            raise
        raise InvalidArgumentError("input", "HDF5 (netCDF 4, MATLAB 7.3)", f"{name.name}, {_kind(name)}") from None
    with file, name.open("rb", buffering=0) as raw:
        array = _only(h5py, file, path) if inside is None else file.get(inside)
        if not isinstance(array, h5py.Dataset):
            listing = _listed(name, _arrays(h5py, file))
            raise InvalidArgumentError("input", f"the path of an array (HDF5 {listing})", path.name)
        if array.shape is None:
            raise InvalidArgumentError("input", "an array with values", f"{array.name}, which is empty")
        layout = Layout(axes_of(array.shape, _named(array) or _usual(name, array), axes))
        reader = BlockReader(View(_Whole(array, raw), layout, name.name), array.chunks)
        yield Opened(reader, notes=attribute_notes(dict(array.attrs)))


class _Whole:
    """A dataset, as long as its file is whole: HDF5 reads zeros where a file that became shorter has ended.

    Args:
        array: the dataset.
        file: that it is in.
    """

    def __init__(self, array: Any, file: FileIO) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self._array, self._file, self._size = array, file, os.fstat(file.fileno()).st_size

    def __getitem__(self, key: Any) -> Array:
        part: Array = self._array[key]
        left = os.fstat(self._file.fileno()).st_size
        if left < self._size:
            raise became_shorter(self._file, self._size, left)
        return part


@contextmanager
def create_output(path: Path, layout: Layout, dtype: np.dtype, metadata: Metadata) -> Iterator[Created]:
    """See `files.create_output`. To add an array to a file, a copy of the file is written and replaces it.

    Raises:
        InvalidArgumentError: the file is not HDF5, or its path is that of a group or lies in an array.
    """
    h5py = needed("h5py", "to write HDF5")
    name, inside = split(path)
    if name.suffix.lower() in READ_ONLY:
        raise InvalidArgumentError("output", f"HDF5 by its own name, {name.stem}.h5", name.name)
    shape, chunks = layout.array_shape, chunks_for(layout, dtype)
    _check_free(h5py, name, inside or NAME)
    with replaced(name, copy=True) as new:
        whole = math.prod(-(-size // chunk) * chunk for size, chunk in zip(shape, chunks, strict=True)) * dtype.itemsize
        check_space(new, whole)
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        with h5py.File(new, "a") as file:
            with suppress(KeyError):
                del file[inside or NAME]  # before the new one is made, which can then take its space
            array = file.create_dataset(inside or NAME, shape, dtype, chunks=chunks, dcpl=early)
            for dimension, axis in zip(array.dims, layout.axes, strict=True):
                dimension.label = axis.name
            file.flush()
            allocate(new)
            yield Created(BlockWriter(View(array, layout), chunks), layout.axes, missing("HDF5", metadata.left_out()))


def _check_free(h5py: Any, name: Path, inside: str) -> None:
    """Check that an output replaces no group and lies in no array."""
    if not name.exists():
        return
    try:
        with h5py.File(name, "r") as file:
            nodes = [file.get(str(node)) for node in (Path(inside), *Path(inside).parents)]
    except OSError as error:
        raise InvalidArgumentError("output", "an HDF5 file, where there is one", f"{name} ({error})") from None
    if isinstance(nodes[0], h5py.Group) or any(isinstance(node, h5py.Dataset) for node in nodes[1:]):
        raise InvalidArgumentError("output", "a new path in the file, or that of an array", f"{name}:{inside}")


def _only(h5py: Any, file: Any, path: Path) -> Any:
    """The array of a file that has only one; arrays of one axis and scales of other arrays do not count."""
    arrays = _arrays(h5py, file)
    if len(arrays) != 1:
        raise InvalidArgumentError("input", f"the path of one array (HDF5 {_listed(path, arrays)})", path.name)
    return file[arrays[0]]


def _arrays(h5py: Any, file: Any) -> list[str]:
    """The paths of arrays that may be images; of all arrays if there are none."""
    images: list[str] = []
    others: list[str] = []

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not name.startswith("#"):  # names with # are internal to MATLAB
            image = len(node.shape or ()) > 1 and node.dtype.kind in "biuf" and not node.is_scale
            (images if image else others).append(name)

    file.visititems(visit)
    return images or others


def _listed(path: Path, arrays: list[str]) -> str:
    if not arrays:
        return "without arrays"
    more = f" and {len(arrays) - LISTED} more" * (len(arrays) > LISTED)
    return "with " + ", ".join(f"{path.name}:/{name}" for name in arrays[:LISTED]) + more


def _named(array: Any) -> list[str] | None:
    """The names of the axes: their labels or, as in netCDF, the names of their scales."""
    names = [d.label or (d[0].name.rpartition("/")[2] if len(d) else "") for d in array.dims]
    return list(map(str, names)) if all(names) else None


def _usual(name: Path, array: Any) -> list[str] | None:
    """The axes of formats that do not name them. MATLAB stores the first axis last."""
    if "MATLAB_class" in array.attrs:
        return list(reversed(guess_axes(array.shape[::-1]).lower()))
    return list("zyx") if name.suffix.lower() == ".ims" and len(array.shape) == 3 else None


def _kind(name: Path) -> str:
    """The format of a file that is not HDF5."""
    with name.open("rb") as file:
        begin = file.read(16)
    return next((kind for magic, kind in OLDER.items() if begin.startswith(magic)), "another format")
