"""Zarr arrays, versions 2 and 3, and OME-Zarr images; written as version 3 with the names of the axes."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv_server.files.axes import Opened, View, Writable, guessed
from groupconv_server.files.blocks import BlockReader, BlockWriter
from groupconv_server.files.extras import needed
from groupconv_server.files.output import replaced

SUFFIXES = (".zarr",)
CHUNK = 256
"""Rows and columns of a chunk that is written."""


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    zarr = needed("zarr", "to read Zarr")
    try:
        node = zarr.open(store=str(path), mode="r")
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise InvalidArgumentError("input", "a Zarr array or group", f"{path.name} ({error})") from None
    array, named = (node, None) if hasattr(node, "chunks") else _member(path, node)
    view = View(array, axes or named or _named(array) or guessed(array.shape))
    yield Opened(BlockReader(view, chunk_rows(array, view)))


@contextmanager
def create_output(path: Path, shape: tuple[int, ...], dtype: np.dtype, *, alpha: bool) -> Iterator[Writable]:  # noqa: ARG001
    """See `files.create_output`."""
    zarr = needed("zarr", "to write Zarr")
    if path.exists() and not _is_array(path):
        raise InvalidArgumentError("output", "a new path or a Zarr array, which is replaced", path)
    names = ["n", "c", "z", "y", "x"] if len(shape) == 5 else ["n", "c", "y", "x"]
    deep = (16,) if len(shape) == 5 else ()
    chunks = tuple(map(min, (1, 4, *deep, CHUNK, CHUNK), shape))
    with replaced(path) as new:
        try:
            array = zarr.create_array(store=str(new), shape=shape, dtype=dtype, chunks=chunks, dimension_names=names)
            yield BlockWriter(View(array, "NCZYX" if len(shape) == 5 else "NCYX"), chunks[2])
        except BaseException:
            _settle()
            raise


def _settle() -> None:
    """Wait for the chunks that Zarr still writes after an error: the folder cannot be removed before."""
    from zarr.core.sync import sync

    async def others() -> None:
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    sync(others())


def chunk_rows(array: Any, view: View) -> int:
    """Rows along the banded axis that are stored together."""
    stored = getattr(array, "shards", None) or array.chunks
    return int(stored[view.axis_in_file])


def _is_array(path: Path) -> bool:
    described = path / "zarr.json"
    if described.is_file():
        return bool(json.loads(described.read_text()).get("node_type") == "array")
    return (path / ".zarray").is_file()


def _member(path: Path, group: Any) -> tuple[Any, str | None]:
    """The image of an OME-Zarr group at full resolution with its axes, or the only array of any other group."""
    attributes = dict(group.attrs)
    scales = dict(attributes.get("ome", attributes)).get("multiscales")
    if scales:
        names = [axis["name"] if isinstance(axis, dict) else axis for axis in scales[0].get("axes", [])]
        return group[scales[0]["datasets"][0]["path"]], "".join(name[0] for name in names) or None
    arrays = sorted(name for name, _ in group.arrays())
    if len(arrays) != 1:
        inside = ", ".join(f"{path.name}/{name}" for name in arrays) or "no array"
        raise InvalidArgumentError("input", f"the path of one array; the group has {inside}", path.name)
    return group[arrays[0]], None


def _named(array: Any) -> str | None:
    """Axes by the first letters of the names that the array gives its dimensions, if it does."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return "".join(name[0] for name in names) if names and all(names) else None
