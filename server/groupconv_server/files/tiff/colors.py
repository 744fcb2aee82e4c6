"""TIFF's photometric interpretations: values become grey, RGB or inks. Others are refused by name."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv_server.files.derived import Mapped, PaletteColors, Recolored
from groupconv_server.files.metadata import Metadata

JPEG = (6, 7, 33007, 34892)
"""Compressions whose decoder converts YCbCr to RGB."""
SCIENTIFIC = ("ome", "imagej", "lsm", "stk", "fluoview", "micromanager")
"""Types of files whose palette only colors intensities on the screen."""


def decoded(page: Any, array: Any, axes: str, metadata: Metadata) -> tuple[Any, str, Metadata]:
    """An array of a TIFF as grey, RGB or inks, with its axes and metadata.

    Args:
        page: of tifffile, the first of the series.
        array: as stored, with the axes `axes`.
        axes: letters; a palette adds S.
        metadata: of the file.

    Raises:
        InvalidArgumentError: the photometric interpretation is not supported.
    """
    name = getattr(page.photometric, "name", str(page.photometric))
    bits, dtype = int(page.bitspersample), np.dtype(array.dtype)
    if name in ("MINISBLACK", "LINEAR_RAW"):
        return _scaled(array, bits), axes, replace(metadata, photometric="grey")
    if name == "MINISWHITE":
        return _scaled(_inverted(array, bits), bits), axes, replace(metadata, photometric="grey")
    if name == "RGB" or (name == "YCBCR" and int(page.compression) in JPEG):
        return _scaled(array, bits), axes, replace(metadata, photometric="rgb")
    if name == "SEPARATED":
        return _scaled(array, bits), axes, replace(metadata, photometric="separated")
    if name == "PALETTE":
        return _colored(page, array, axes, metadata)
    whole = dtype == np.uint8 and page.samplesperpixel >= 3 and "S" in axes and not page.is_subsampled
    if name in READ_BY_PILLOW and whole:
        recolored = Recolored(array, axes.index("S"), functools.partial(_by_pillow, READ_BY_PILLOW[name]))
        icc = metadata.icc_profile if name == "YCBCR" else b""
        notes = (*metadata.notes, f"{name}: read as RGB")
        return recolored, axes, replace(metadata, photometric="rgb", icc_profile=icc, notes=notes)
    expected = "photometric interpretation MINISBLACK, MINISWHITE, RGB, PALETTE, SEPARATED, or 8-bit YCBCR or CIELAB"
    how = " (or --axes, to convolve the numbers as they are)"
    raise InvalidArgumentError("input", expected + how, f"{name} of {dtype}")


def _inverted(array: Any, bits: int) -> Any:
    dtype = np.dtype(array.dtype)
    if dtype.kind == "b":
        return Mapped(array, dtype, np.logical_not)
    if dtype.kind != "u":
        expected = "photometric interpretation MINISBLACK for such numbers"
        raise InvalidArgumentError("input", expected, f"MINISWHITE of {dtype}")
    native = dtype.newbyteorder("=")
    white = native.type(2**bits - 1)
    return Mapped(array, native, lambda part: white - part.astype(native, copy=False))


def _scaled(array: Any, bits: int) -> Any:
    """Values of 2 to 7 bits scaled to 8, as viewers show them. Values of more bits are measurements and stay."""
    if np.dtype(array.dtype) != np.uint8 or bits >= 8:
        return array
    levels = np.rint(np.arange(256) * 255 / (2**bits - 1)).clip(0, 255).astype(np.uint8)
    return Mapped(array, np.dtype(np.uint8), lambda part: levels[part])


def _colored(page: Any, array: Any, axes: str, metadata: Metadata) -> tuple[Any, str, Metadata]:
    """Indices replaced by the colors of the palette, in 8 bits if the palette has no more.

    Raises:
        InvalidArgumentError: the indices have extra samples.
    """
    kind = next((k for k in SCIENTIFIC if getattr(page.parent, f"is_{k}", False)), None)
    if "S" in axes or page.colormap is None:
        expected = "a palette and one sample of each pixel for photometric interpretation PALETTE"
        raise InvalidArgumentError("input", expected, f"{page.samplesperpixel} samples")
    if kind is not None:
        note = f"the palette only colors the screen ({kind}): intensities are read, the palette is left out"
        return array, axes, replace(metadata, photometric="grey", notes=(*metadata.notes, note))
    colors = np.asarray(page.colormap)  # (3, 2**bits) of uint16
    high = colors >> 8
    if np.array_equal(colors, high * 257) or np.array_equal(colors, high << 8):
        colors = high.astype(np.uint8)
    notes = (*metadata.notes, "palette: read as RGB")
    return PaletteColors(array, colors), axes + "S", replace(metadata, photometric="rgb", notes=notes)


def _by_pillow(convert: Callable[[bytes, tuple[int, int]], Image.Image], part: Array) -> Array:
    """Pixels (…, rows, columns, 3) converted to RGB by Pillow."""
    rows = np.ascontiguousarray(part).reshape(-1, *part.shape[-2:])
    image = convert(rows.tobytes(), (rows.shape[1], rows.shape[0]))
    return np.asarray(image.convert("RGB")).reshape(part.shape)


def _from_ycbcr(data: bytes, size: tuple[int, int]) -> Image.Image:
    return Image.frombytes("YCbCr", size, data)


def _from_cielab(data: bytes, size: tuple[int, int]) -> Image.Image:
    return Image.frombytes("LAB", size, data, "raw", "LAB")


def _from_icclab(data: bytes, size: tuple[int, int]) -> Image.Image:
    """ICCLAB stores a and b with an offset of 128, CIELAB as signed numbers."""
    signed = np.frombuffer(data, np.uint8).reshape(-1, 3) ^ np.array([0, 128, 128], np.uint8)
    return _from_cielab(signed.tobytes(), size)


READ_BY_PILLOW = {"YCBCR": _from_ycbcr, "CIELAB": _from_cielab, "ICCLAB": _from_icclab}
