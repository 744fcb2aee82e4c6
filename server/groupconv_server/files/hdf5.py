"""HDF5: `scan.h5`, or `scan.h5:/group/array` where it holds several."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv_server.files.axes import Opened, View, Writable, guessed
from groupconv_server.files.blocks import BlockReader, BlockWriter
from groupconv_server.files.extras import needed

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
NAME = "/data"
"""Of the array that is written, unless the path says another."""


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    h5py = needed("h5py", "to read HDF5")
    name, inside = _parts(path)
    with h5py.File(name, "r") as file:
        array = _only(h5py, file, path) if inside is None else file.get(inside)
        if not isinstance(array, h5py.Dataset):
            raise InvalidArgumentError("input", "an array in the file", path)
        view = View(array, axes or _labelled(array) or guessed(array.shape))
        yield Opened(BlockReader(view, array.chunks[view.axis_in_file] if array.chunks else 1))


@contextmanager
def create_output(path: Path, shape: tuple[int, ...], dtype: np.dtype, *, alpha: bool) -> Iterator[Writable]:  # noqa: ARG001
    """See `files.create_output`."""
    h5py = needed("h5py", "to write HDF5")
    name, inside = _parts(path)
    axes = "NCZYX" if len(shape) == 5 else "NCYX"
    chunks = tuple(map(min, (1, 1, *((8,) if len(shape) == 5 else ()), 256, 256), shape))
    with h5py.File(name, "w") as file:
        array = file.create_dataset(inside or NAME, shape, dtype, chunks=chunks)
        for dimension, letter in zip(array.dims, axes.lower(), strict=True):
            dimension.label = letter
        yield BlockWriter(View(array, axes), chunks[2])


def _parts(path: Path) -> tuple[str, str | None]:
    name, colon, inside = str(path).partition(":/")
    return name, "/" + inside if colon else None


def _only(h5py: Any, file: Any, path: Path) -> Any:
    found: list[str] = []
    file.visititems(lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None)
    if len(found) != 1:
        inside = ", ".join(f"{path.name}:/{name}" for name in found) or "no array"
        raise InvalidArgumentError("input", f"the path of one array; the file has {inside}", path.name)
    return file[found[0]]


def _labelled(array: Any) -> str | None:
    labels = [dimension.label for dimension in array.dims]
    return "".join(label[0] for label in labels) if all(labels) else None
