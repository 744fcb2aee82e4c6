"""Pictures of more than 8 bits, of which Pillow would read only the upper 8."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError, Words
from groupconv_server.files.extras import needed

JPEG2000_START = b"\xff\x4f\xff\x51"
JPEG2000_BITS = 42
"""Markers before the sizes of a JPEG 2000, and the distance from there to the byte of its bits less one."""
AVIF_CODEC, AVIF_FLAGS, AVIF_DEEP = b"av1C", 6, 0x40
"""The box of an AVIF that says how it is coded, the distance to its byte of flags, and the flag of more than 8 bits."""
HEAD = 2**16
"""Bytes from the start of a file that have its headers."""


def deep_decoder(image: Any, path: Path) -> Callable[[], Array] | None:
    """A function that decodes all bits of a picture; None if Pillow reads them itself.

    Args:
        image: of Pillow.
        path: of its file.

    Raises:
        InvalidArgumentError: nothing here can read all bits.
    """
    kind, codec = image.format, str(image.tile[0].codec_name) if image.tile else ""
    if kind == "PNG" and any("16B" in str(tile.args) for tile in image.tile):
        return None if image.mode.startswith("I") and not image.has_transparency_data else _by("png", path)
    if kind == "PPM" and codec == "ppm" and image.tile[0].args[1] > 255:
        return functools.partial(_netpbm, image, path)
    if kind == "JPEG2000" and not image.mode.startswith("I") and _bits_of_jpeg2000(path) > 8:
        return _by("jpeg2k", path)
    still = getattr(image, "n_frames", 1) == 1
    if kind == "AVIF" and _is_deep_avif(path):
        if still:
            return _by("avif", path)
        raise _refusal("a still AVIF, or 8 bits", path)
    if (kind == "SGI" and codec == "SGI16") or (kind == "PPM" and codec == "ppm_plain" and image.tile[0].args[1] > 255):
        raise _refusal(f"8 bits in such a {kind} (else PNG or TIFF)", path)
    return None


def _refusal(expected: str, path: Path) -> InvalidArgumentError:
    return InvalidArgumentError("input", expected, Words(f"{path.name}, of more than 8 bits"))


def _by(codec: str, path: Path) -> Callable[[], Array]:
    def decode() -> Array:
        module = needed("imagecodecs", "to read pictures of more than 8 bits")
        pixels: Array = getattr(module, f"{codec}_decode")(path.read_bytes())
        return pixels

    return decode


def _netpbm(image: Any, path: Path) -> Array:
    """Big-endian samples of 16 bits behind the header, as they are: Pillow would scale them to 16 bits."""
    bands = 3 if image.mode == "RGB" else 1
    (width, height), tile = image.size, image.tile[0]
    data = path.read_bytes()[tile.offset :]
    count = width * height * bands
    if len(data) < 2 * count:
        raise ValueError("image file is truncated")
    pixels = np.frombuffer(data, ">u2", count)
    return pixels.reshape((height, width, bands) if bands > 1 else (height, width))


def _bits_of_jpeg2000(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(HEAD)
    at = head.find(JPEG2000_START)
    return (head[at + JPEG2000_BITS] & 0x7F) + 1 if 0 <= at < len(head) - JPEG2000_BITS else 8


def _is_deep_avif(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD)
    at = head.find(AVIF_CODEC) + AVIF_FLAGS
    return AVIF_FLAGS <= at < len(head) and bool(head[at] & AVIF_DEEP)
