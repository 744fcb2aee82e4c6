"""Zarr arrays and OME-Zarr images. Versions 2 and 3 are read, version 3 is written."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv_server.files.arrays import Created, Opened
from groupconv_server.files.attributes import attribute_notes
from groupconv_server.files.axes import axes_of
from groupconv_server.files.blocks import BlockReader, BlockWriter, chunks_for
from groupconv_server.files.extras import needed
from groupconv_server.files.layout import Layout, View
from groupconv_server.files.metadata import Metadata, missing
from groupconv_server.files.output import replaced
from groupconv_server.files.zarr import ome
from groupconv_server.files.zarr.pyramid import add_levels

SUFFIXES = (".zarr",)
ANY_ORDER = True
LONGEST = 8
"""Bytes of the longest number in Zarr."""
IMAGE = ".ome.zarr"
"""Suffix of an OME-Zarr image."""


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    zarr = needed("zarr", "to read Zarr")
    try:
        node = zarr.open(store=str(path), mode="r")
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise InvalidArgumentError("input", "a Zarr array or group", f"{path.name} ({error})") from None
    group = isinstance(node, zarr.Group)
    try:
        image = ome.image_in(path, node) if group else ome.level_of(zarr, path, node)
    except InvalidArgumentError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InvalidArgumentError("input", "OME-Zarr whose metadata is complete", f"{path.name} ({error!r})") from None
    layout = Layout(axes_of(image.array.shape, image.names or _named(image.array), axes))
    reader = BlockReader(View(image.array, layout, path.name), stored(image.array))
    with settled():
        extent = 1 if layout.channel is None else layout.array_shape[layout.channel]
        names, colors = (image.labels(key) if len(image.channels) == extent else () for key in ("label", "color"))
        metadata = Metadata(
            pixel_sizes=image.pixel_sizes, origin=image.origin, channel_names=names, channel_colors=colors
        )
        yield Opened(reader, metadata, (*image.notes, *attribute_notes(dict(image.array.attrs))))


@contextmanager
def create_output(
    path: Path, layout: Layout, dtype: np.dtype, metadata: Metadata, *, pyramid: bool = False
) -> Iterator[Created]:
    """See `files.create_output`. A name that ends in `.ome.zarr` makes an OME-Zarr image."""
    image = path.name.lower().endswith(IMAGE)
    zarr = needed("zarr", "to write Zarr")
    if path.exists() and not ome.is_replaceable(path, image=image):
        expected = "a new path, or a Zarr array or image, which is replaced"
        raise InvalidArgumentError("output", expected, str(path))
    if ome.is_replaceable(path.parent, image=False):
        raise InvalidArgumentError("output", "a path in a folder or a Zarr group", f"{path}, in an array")
    dtype = np.dtype(dtype.str)  # Zarr knows one of C's two integers of 64 bits; TIFF files have the other one
    if dtype.itemsize > LONGEST:
        raise InvalidArgumentError("output", "a dtype that Zarr holds (float64)", f"{dtype} for {path.name}")
    chunks = chunks_for(layout, dtype)
    with replaced(path) as new, settled():
        arguments = {"shape": layout.array_shape, "dtype": dtype, "chunks": chunks}
        arguments["dimension_names"] = [axis.name for axis in layout.axes]
        if image:
            group = zarr.create_group(store=str(new))
            array = group.create_array("0", **arguments)
        else:
            array = zarr.create_array(store=str(new), **arguments)
        held = ("pixel_sizes", "origin", "channel_names", "channel_colors") if image else ()
        yield Created(BlockWriter(View(array, layout), chunks), layout.axes, missing("Zarr", metadata.left_out(*held)))
        if image:
            levels = add_levels(group, layout, dtype) if pyramid else 1
            ome.describe(group, layout, metadata, [2**i for i in range(levels)])


@contextmanager
def settled() -> Iterator[None]:
    """After an error, wait for chunks that Zarr still writes or reads.

    Before that the folder cannot be removed, and the errors of other chunks would be printed when the process ends.
    """
    from zarr.core.sync import sync

    async def others() -> None:
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    try:
        yield
    except BaseException:
        sync(others())
        raise


def stored(array: Any) -> Sequence[int]:
    """The extents of the shards, or else the chunks, of an array."""
    return tuple(getattr(array, "shards", None) or array.chunks)


def _named(array: Any) -> list[str] | None:
    """The names of an array's dimensions; None if some have no name."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return list(map(str, names)) if names and all(names) else None
