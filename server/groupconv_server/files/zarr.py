"""Zarr arrays, versions 2 and 3, and OME-Zarr images; written as version 3 with the names of the axes."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv_server.files import ome_zarr
from groupconv_server.files.axes import Created, Layout, Opened, View, axes_of
from groupconv_server.files.blocks import BlockReader, BlockWriter, chunks_for
from groupconv_server.files.extras import needed
from groupconv_server.files.metadata import Metadata, missing
from groupconv_server.files.output import replaced

SUFFIXES = (".zarr",)


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    zarr = needed("zarr", "to read Zarr")
    try:
        node = zarr.open(store=str(path), mode="r")
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise InvalidArgumentError("input", "a Zarr array or group", f"{path.name} ({error})") from None
    if isinstance(node, zarr.Group):
        array, names, note = ome_zarr.image_in(path, node)
        notes = (note,) if note else ()
    else:
        array, names, notes = node, ome_zarr.names_above(zarr, path), ()
    view = View(array, Layout(axes_of(array.shape, names or _named(array), axes)))
    yield Opened(BlockReader(view, stored(array)), notes=notes)


@contextmanager
def create_output(path: Path, layout: Layout, dtype: np.dtype, metadata: Metadata) -> Iterator[Created]:
    """See `files.create_output`; a name that ends in `.ome.zarr` gets an OME-Zarr image."""
    zarr = needed("zarr", "to write Zarr")
    if path.exists() and not ome_zarr.is_replaceable(path):
        raise InvalidArgumentError("output", "a new path, or a Zarr array or image, which is replaced", path)
    chunks = chunks_for(layout, dtype)
    with replaced(path) as new:
        try:
            made = {"shape": layout.array_shape, "dtype": dtype, "chunks": chunks}
            made["dimension_names"] = [axis.name for axis in layout.axes]
            if ome_zarr.is_image(path):
                group = zarr.create_group(store=str(new))
                array = group.create_array("0", **made)
            else:
                array = zarr.create_array(store=str(new), **made)
            yield Created(BlockWriter(View(array, layout), chunks), missing("Zarr", metadata.left_out()))
            if ome_zarr.is_image(path):
                ome_zarr.describe(group, layout)
        except BaseException:
            _settle()
            raise


def _settle() -> None:
    """Wait for the chunks that Zarr still writes after an error: the folder cannot be removed before."""
    from zarr.core.sync import sync

    async def others() -> None:
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    sync(others())


def stored(array: Any) -> Sequence[int]:
    """Extents of what an array stores together."""
    return tuple(getattr(array, "shards", None) or array.chunks)


def _named(array: Any) -> list[str] | None:
    """The names that an array gives its dimensions, if it names all."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return list(map(str, names)) if names and all(names) else None
