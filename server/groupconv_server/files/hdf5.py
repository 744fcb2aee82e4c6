"""HDF5: `scan.h5`, or `scan.h5:/group/array` where it holds several."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv_server.files.axes import Opened, View, Writable, guessed
from groupconv_server.files.blocks import BlockReader, BlockWriter
from groupconv_server.files.extras import needed
from groupconv_server.files.output import allocate, replaced

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
    """See `files.create_output`; an array in a file that is there is written to a copy of the file.

    Raises:
        InvalidArgumentError: a file that is no HDF5, or a path in it that is not free and not an array's.
    """
    h5py = needed("h5py", "to write HDF5")
    name, inside = _parts(path)
    axes = "NCZYX" if len(shape) == 5 else "NCYX"
    chunks = tuple(map(min, (1, 1, *((8,) if len(shape) == 5 else ()), 256, 256), shape))
    _check_free(h5py, Path(name), inside or NAME)
    with replaced(Path(name), copy=True) as new:
        _check_space(new, shape, chunks, dtype)
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        with h5py.File(new, "a") as file:
            with suppress(KeyError):
                del file[inside or NAME]  # before the new one is made, which can then take its space
            array = file.create_dataset(inside or NAME, shape, dtype, chunks=chunks, dcpl=early)
            for dimension, letter in zip(array.dims, axes.lower(), strict=True):
                dimension.label = letter
            file.flush()
            allocate(new)
            yield BlockWriter(View(array, axes), chunks[2])


def _check_space(new: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype) -> None:
    """Fail if the disk is too full for the array. HDF5 crashes where it meets a full disk itself."""
    whole = math.prod(-(-size // chunk) * chunk for size, chunk in zip(shape, chunks, strict=True)) * dtype.itemsize
    before = new.stat().st_size if new.exists() else 0
    space = new.with_name("space")
    allocate(space, before + whole)
    space.unlink()


def _check_free(h5py: Any, name: Path, inside: str) -> None:
    """Refuse an output that would replace a group, or whose parent is an array."""
    if not name.exists():
        return
    try:
        with h5py.File(name, "r") as file:
            nodes = [file.get(str(node)) for node in (Path(inside), *Path(inside).parents)]
    except OSError as error:
        raise InvalidArgumentError("output", "an HDF5 file, where there is one", f"{name} ({error})") from None
    if isinstance(nodes[0], h5py.Group) or any(isinstance(node, h5py.Dataset) for node in nodes[1:]):
        raise InvalidArgumentError("output", "a path in the file that is free, or an array's", f"{name}:{inside}")


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
