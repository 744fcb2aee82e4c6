"""TIFF: tiles, strips, BigTIFF, OME and ImageJ. A name with `.ome.` makes an OME-TIFF."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv.streaming.raw import RawArray
from groupconv_server.files.arrays import Created, Opened
from groupconv_server.files.axes import Axis, axes_of
from groupconv_server.files.blocks import BlockReader, BlockWriter
from groupconv_server.files.derived import upright
from groupconv_server.files.extras import needed
from groupconv_server.files.layout import Layout, View
from groupconv_server.files.metadata import Metadata, missing
from groupconv_server.files.output import allocate, check_space, replaced
from groupconv_server.files.paths import split
from groupconv_server.files.tiff.colors import decoded
from groupconv_server.files.tiff.metadata import imagej_axes, metadata_of, options_of
from groupconv_server.files.tiff.pages import check_complete, missing_planes
from groupconv_server.files.tiles import TILE, Tiles
from groupconv_server.files.zarr import settled, stored

SUFFIXES = (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".scn", ".lsm")
ANY_ORDER = False
"""Tiles are written from the top left."""
KNOWN = "TCSZYX"
"""Axes of tifffile that `axes.WORDS` knows; other axes are samples."""
BIG = 2**31
"""Files with more bytes of pixels are BigTIFFs: a TIFF's offsets have 32 bits."""
DTYPES = ("uint8", "uint16", "int8", "int16", "int32", "uint32", "float16", "float32", "float64")
"""Dtypes of TIFF that can be written."""


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    tifffile = needed("tifffile", "to read TIFF")
    name, image = split(path)
    try:
        file = tifffile.TiffFile(name)
    except tifffile.TiffFileError as error:
        raise InvalidArgumentError("input", "a TIFF", f"{path.name} ({error})") from None
    with file, name.open("rb", buffering=0) as raw:
        if image is None:
            check_complete(file, path)
        series, notes = _select(file, path, image)
        orientation = int(getattr(series.keyframe.tags.get("Orientation"), "value", 1))
        array, letters, metadata = (
            _stored(raw, file, series),
            series.axes,
            metadata_of(file, series, axes, orientation),
        )
        if axes is None:
            array, letters, metadata = decoded(series.keyframe, array, letters, metadata)
            array = upright(array, letters, orientation)
        view = View(array, Layout(axes_of(array.shape, _names(letters), axes)), path.name)
        notes += metadata.notes
        if getattr(array, "chunks", None) is None:
            yield Opened(view, metadata, notes)
            return
        with settled():
            yield Opened(BlockReader(view, stored(array)), metadata, notes)


def _stored(raw: FileIO, file: Any, series: Any) -> Any:
    """The series as it is stored: parts of the file if its pixels are contiguous, else tiles or strips."""
    if series.dataoffset is not None:
        return RawArray(raw, series.dtype.newbyteorder(file.byteorder), series.shape, series.dataoffset)
    return needed("zarr", "to read TIFF in tiles").open_array(series.aszarr(level=0), mode="r")


def _names(axes: str) -> list[str]:
    """Names for the axes of tifffile. Samples of a pixel are channels; unknown axes are samples.

    Example:
        >>> _names("QTYXS")
        ['n1', 't', 'y', 'x', 'c']
    """
    named = [a.lower() if a in KNOWN else f"n{i}" for i, a in enumerate(axes, 1)]
    return ["c" if name == "s" and "c" not in named else name for name in named]


def _select(file: Any, path: Path, image: str | None) -> tuple[Any, tuple[str, ...]]:
    """The series and level that a path means, and notes about others in the file."""
    number, _, level = (image or "0").partition("/")
    series, at = int(number), int(level or 0)
    if series >= len(file.series) or at >= len(file.series[series].levels):
        choices = ", ".join(f":{i}/{k}" for i, s in enumerate(file.series) for k in range(len(s.levels)))
        raise InvalidArgumentError("input", f"an image and level of this file (:IMAGE/LEVEL): {choices}", path.name)
    base, levels = split(path)[0].name, len(file.series[series].levels)
    notes = []
    if image is None and len(file.series) > 1:
        notes.append(f"{base}: took image 0 of {len(file.series)}; for another one, {base}:1")
    if not level and levels > 1:
        notes.append(f"{base}: took level 0 of {levels}; for another one, {base}:{series}/1")
    selected = file.series[series].levels[at]
    if file.is_ome and (missing := missing_planes(selected)):
        notes.append(f"{base}: {missing} of {len(selected)} planes are in no file here; they are read as zeros")
    return selected, tuple(notes)


@contextmanager
def create_output(path: Path, layout: Layout, dtype: np.dtype, metadata: Metadata) -> Iterator[Created]:
    """See `files.create_output`.

    The output has tiles with the channels of a pixel together. If the input stores one channel after another, so does
    the output; its pixels are then contiguous and can be filled in any order.
    """
    tifffile = needed("tifffile", "to write TIFF")
    if dtype.name not in DTYPES:
        expected = f"a dtype that TIFF holds ({', '.join(DTYPES)})"
        raise InvalidArgumentError("output", expected, f"{dtype} for {path.name}")
    ome = ".ome." in path.name.lower()
    size = math.prod(layout.shape) * dtype.itemsize
    file_options: dict[str, Any] = {"bigtiff": size > BIG, "ome": ome}
    channels = math.prod(axis.size for axis in layout.axes if axis.kind == "C")
    planes = _planes(layout, metadata, ome=ome)
    imagej = "" if ome or size > BIG else imagej_axes(layout, dtype, metadata)
    samples = 1 if imagej else channels if "S" in planes else layout.shape[1]
    options, held = options_of(samples, channels, metadata, kind="ome" if ome else "imagej" if imagej else "")
    notes = missing("OME-TIFF" if ome else "TIFF", metadata.left_out(*held))
    if imagej or planes:
        if imagej:
            file_options = {"imagej": True, "byteorder": "<"}
        elif "S" in planes:
            options["planarconfig"] = "separate"
        else:
            options = {k: v for k, v in options.items() if k not in ("planarconfig", "extrasamples")}
            options["photometric"] = "minisblack"
        options["metadata"]["axes"] = imagej or planes
        with replaced(path) as new:
            lengths = [a.size for a in layout.axes if not imagej or a.size > 1 or a.kind in "YX"]
            out = tifffile.memmap(new, shape=lengths, dtype=dtype, **file_options, **options)
            allocate(new)
            yield Created(View(out.reshape(layout.array_shape), layout), layout.axes, notes)
            out.flush()
        return
    shape = layout.shape
    tiles = Tiles(shape, dtype)
    volume, samples = len(shape) == 5, shape[1]
    pages, page_shape = _pages(layout, ome=ome)
    options["metadata"]["axes"] = pages + "Z" * volume + "YX" + "S" * (samples > 1)
    written = (*page_shape, *shape[2:], *((samples,) if samples > 1 else ()))

    def write(new: Path) -> None:
        with tifffile.TiffWriter(new, **file_options) as file:
            file.write(iter(tiles), shape=written, dtype=dtype, tile=(TILE, TILE), **options)

    named = axes_of(written, _names(options["metadata"]["axes"]))
    in_tiles = [
        Axis(kind, kind, extent) for kind, extent in zip("NZYXC" if volume else "NYXC", tiles.shape, strict=True)
    ]
    chunks = (1, *((1,) if volume else ()), TILE, TILE, samples)
    with replaced(path) as new:
        check_space(new, size)
        with tiles.written_by(lambda: write(new)):
            yield Created(BlockWriter(View(tiles, Layout(tuple(in_tiles))), chunks), named, notes)


def _planes(layout: Layout, metadata: Metadata, *, ome: bool) -> str:
    """The axes, as letters, of an output that stores one channel after another; "" if channels are stored together.

    The channels are S (planar samples of a pixel) if they are so in the input, else C (pages).
    """
    letters: list[str] = []
    for axis in layout.axes:
        letter = "S" if axis.kind == "C" and metadata.planar else "T" if axis.kind == "N" else axis.kind
        letters.append("Q" if letter in letters else letter)
    order = "".join(letters)
    # Tiles are written sample by sample. If other axes come between, only contiguous pixels keep the order.
    mixed = layout.samples != tuple(range(len(layout.samples)))
    if not (metadata.planar or "C" in metadata.axes or mixed) or not order.endswith("YX") or (ome and "Q" in order):
        return ""
    return order if order.endswith("SYX") or ("C" in order and "S" not in order) else ""


def _pages(layout: Layout, *, ome: bool) -> tuple[str, tuple[int, ...]]:
    """Letters and sizes of the axes that are samples. OME knows T, C and Z only; other axes are joined to one T."""
    axes = [layout.axes[i] for i in layout.samples if layout.axes[i].size > 1]
    letters: list[str] = []
    for axis in axes:
        letter = "T" if axis.kind == "N" else axis.kind
        letters.append("Q" if letter in letters else letter)
    if ome and "Q" in letters:
        return "T", (math.prod(axis.size for axis in axes),)
    return "".join(letters), tuple(axis.size for axis in axes)
