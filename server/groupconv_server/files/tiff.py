"""TIFF: tiles, strips, BigTIFF, OME and ImageJ; written in tiles as they come, as OME-TIFF where the name says so."""

import contextlib
import math
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.errors import CancelledError, InvalidArgumentError
from groupconv.wire.requests import Array
from groupconv_server.files.axes import Axis, Layout, Opened, View, Writable, axes_of
from groupconv_server.files.blocks import BlockReader, BlockWriter
from groupconv_server.files.extras import needed
from groupconv_server.files.output import replaced
from groupconv_server.files.paths import split
from groupconv_server.files.zarr import stored

SUFFIXES = (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".scn", ".lsm")
TILE = 256
KNOWN = "TCSZYX"
"""Letters of tifffile's axes that `axes.WORDS` has with their meaning; others are samples."""
BIG = 2**31
"""Bytes of pixels above which a file is a BigTIFF: the format's offsets have 32 bits."""


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    tifffile = needed("tifffile", "to read TIFF")
    name, image = split(path)
    try:
        file = tifffile.TiffFile(name)
    except tifffile.TiffFileError as error:
        raise InvalidArgumentError("input", "a TIFF", f"{path.name} ({error})") from None
    with file:
        series, notes = _chosen(file, path, image)
        alpha = axes is None and series.axes.endswith("S") and series.keyframe.extrasamples[-1:] in ((1,), (2,))
        layout = Layout(axes_of(series.shape, _names(series.axes), axes))
        if series.dataoffset is not None:  # one run of plain pixels, perhaps a single strip
            array = np.memmap(name, series.dtype.newbyteorder(file.byteorder), "r", series.dataoffset, series.shape)
            yield Opened(View(array, layout), alpha, notes)
            return
        zarr = needed("zarr", "to read TIFF in tiles")
        array = zarr.open_array(series.aszarr(level=0), mode="r")
        yield Opened(BlockReader(View(array, layout), stored(array)), alpha, notes)


def _names(axes: str) -> list[str]:
    """The axes of tifffile as names: samples of a pixel are channels, and what is not known is a sample.

    Example:
        >>> _names("QTYXS")
        ['n1', 't', 'y', 'x', 'c']
    """
    named = [a.lower() if a in KNOWN else f"n{i}" for i, a in enumerate(axes, 1)]
    return ["c" if name == "s" and "c" not in named else name for name in named]


def _chosen(file: Any, path: Path, image: str | None) -> tuple[Any, tuple[str, ...]]:
    """The series of a file that a path means, at the level that it means, and a note if there are others."""
    number, _, level = (image or "0").partition("/")
    series, at = int(number), int(level or 0)
    if series >= len(file.series) or at >= len(file.series[series].levels):
        there = ", ".join(f"{i} of {len(s.levels)} levels" for i, s in enumerate(file.series))
        raise InvalidArgumentError("input", f"one of the images {there} (file.tif:IMAGE/LEVEL)", path.name)
    base, levels = split(path)[0].name, len(file.series[series].levels)
    notes = []
    if image is None and len(file.series) > 1:
        notes.append(f"{base}: took image 0 of {len(file.series)}; for another one, {base}:1")
    if not level and levels > 1:
        notes.append(f"{base}: took level 0 of {levels}; for another one, {base}:{series}/1")
    return file.series[series].levels[at], tuple(notes)


@contextmanager
def create_output(path: Path, layout: Layout, dtype: np.dtype, *, alpha: bool) -> Iterator[Writable]:
    """See `files.create_output`; channels are the samples of a pixel, so that rows can be written as they come."""
    tifffile = needed("tifffile", "to write TIFF")
    if dtype.name not in ("uint8", "uint16", "int8", "int16", "int32", "uint32", "float16", "float32", "float64"):
        raise InvalidArgumentError("output", "a dtype that TIFF holds", f"{dtype} for {path.name}")
    shape, ome = layout.shape, ".ome." in path.name.lower()
    tiles = _Tiles(shape, dtype)
    volume, samples = len(shape) == 5, shape[1]
    pages, page_shape = _pages(layout, ome=ome)
    axes = pages + "Z" * volume + "YX" + "S" * (samples > 1)
    colours = samples - alpha
    options: dict[str, Any] = {"photometric": "rgb" if colours == 3 else "minisblack"}
    if samples > 1:
        options["planarconfig"] = "contig"
    if extra := samples - (3 if colours == 3 else 1):
        options["extrasamples"] = ["unassalpha"] if alpha and extra == 1 else ["unspecified"] * extra
    written = (*page_shape, *shape[2:], *((samples,) if samples > 1 else ()))

    def write(new: Path) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with tifffile.TiffWriter(new, bigtiff=size > BIG, ome=ome) as file:
            file.write(
                iter(tiles),
                shape=written,
                dtype=dtype,
                tile=(TILE, TILE),
                metadata={"axes": axes},
                **options,
            )

    with replaced(path) as new, tiles.written_by(lambda: write(new)):
        axes_of_tiles = [
            Axis(kind, kind, size) for kind, size in zip("NZYXC" if volume else "NYXC", tiles.shape, strict=True)
        ]
        chunks = (1, *((1,) if volume else ()), TILE, TILE, samples)
        yield BlockWriter(View(tiles, Layout(tuple(axes_of_tiles))), chunks)


def _pages(layout: Layout, *, ome: bool) -> tuple[str, tuple[int, ...]]:
    """The letters and sizes of the axes that are samples. OME knows T, C and Z; what else there is becomes one T."""
    axes = [layout.axes[i] for i in layout.samples if layout.axes[i].size > 1]
    letters: list[str] = []
    for axis in axes:
        letter = "T" if axis.kind == "N" else axis.kind
        letters.append("Q" if letter in letters else letter)
    if ome and "Q" in letters:
        return "T", (math.prod(axis.size for axis in axes),)
    return "".join(letters), tuple(axis.size for axis in axes)


class _Tiles:
    """Takes rows in order and gives tiles, in a thread of its own: the library wants to pull.

    Args:
        shape: (N, C, *spatial).
        dtype: of the pixels.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        n, channels, *spatial = shape
        self.shape, self.dtype = (n, *spatial, channels), dtype
        self._rows: queue.Queue[Array | None] = queue.Queue(2)
        self._taken = 0
        self._failed: BaseException | None = None
        self._ended = threading.Event()

    def __setitem__(self, _: Any, value: Array) -> None:
        self._taken += len(value)
        self._put(value.copy())  # the buffer that it lies in is filled again

    def __iter__(self) -> Iterator[Array]:
        """Tiles of (rows, columns[, samples]), plane by plane, from the top left."""
        while (value := self._rows.get()) is not None:
            for plane in value if len(self.shape) == 5 else [value]:
                for top in range(0, plane.shape[0], TILE):
                    for left in range(0, plane.shape[1], TILE):
                        tile = plane[top : top + TILE, left : left + TILE]
                        yield np.ascontiguousarray(tile if tile.shape[-1] > 1 else tile[..., 0])
        if self._taken < self.shape[0] * self.shape[1]:
            raise CancelledError("the image is not complete")

    @contextmanager
    def written_by(self, write: Any) -> Iterator[None]:
        """Run `write`, which iterates, in a thread; its error is raised here."""

        def run() -> None:
            try:
                write()
            except BaseException as error:  # noqa: BLE001 - raised by the other thread
                self._failed = error
            finally:
                self._ended.set()

        thread = threading.Thread(target=run, name="tiff", daemon=True)
        thread.start()
        complete = False
        try:
            yield
            complete = True
        finally:
            self._put(None)
            thread.join()
            if complete and self._failed:
                raise self._failed

    def _put(self, value: Array | None) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._rows.put(value, timeout=0.2)
                return
        if value is not None and self._failed:
            raise self._failed
