"""PNG, JPEG, WebP, GIF and the other formats that Pillow reads and writes.

Frames are decoded as a whole, one at a time. An output is encoded as a whole.
"""

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv_server.files.arrays import Created, Opened
from groupconv_server.files.axes import Axis, axes_of
from groupconv_server.files.derived import SWAPPED, upright
from groupconv_server.files.encoders import encoder_of
from groupconv_server.files.extras import needed
from groupconv_server.files.layout import Layout, View
from groupconv_server.files.metadata import Metadata
from groupconv_server.files.output import replaced

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
ANY_ORDER = False
ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose frames are animations. Other formats have pages, or previews of other sizes."""
ORIENTATION, EXIF_IFD, WIDTH, HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003
"""EXIF tags that an output drops: it is upright and may have another size."""
BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""Errors of Pillow for files that it cannot read."""


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    frames = _Frames(path)
    with frames.image:
        if frames.shape[0] > 1:
            yield Opened(View(frames, axes or "nyxc", path.name), frames.metadata, frames.metadata.notes)
        else:
            pixels = frames.decoded(0)
            yield Opened(View(pixels, axes or "yxc"[: pixels.ndim], path.name), frames.metadata, frames.metadata.notes)


@contextmanager
def create_output(path: Path, layout: Layout, dtype: np.dtype, metadata: Metadata) -> Iterator[Created]:
    """See `files.create_output`.

    Raises:
        InvalidArgumentError: a volume, several samples without durations, or a format that cannot hold the array.
    """
    shape = layout.shape
    encoder = encoder_of(path.suffix.lower(), shape, dtype, metadata)
    with replaced(path) as new:
        pixels = np.zeros((shape[0], *shape[2:], shape[1]), dtype)
        channels = [encoder.channels] if encoder.channels > 1 else []
        axes = axes_of((*shape[2:], *channels), requested="yxc"[: 2 + len(channels)])
        if shape[0] > 1:
            axes = (Axis("n", "N", shape[0]), *axes)
        yield Created(View(pixels, "nyxc"), axes, encoder.notes, encoder.left_out)
        try:
            encoder.write(new, pixels)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None):
                raise
            raise InvalidArgumentError("output", "a format that can hold it", f"{path.name} ({error})") from None


class _Frames:
    """The frames of a picture: (N, Y, X, C), or (N, Y, X) with one channel. The last decoded frame is kept.

    Raises:
        InvalidArgumentError: the file is not a picture, or it is broken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                self.image: Any = Image.open(path)
            count = getattr(self.image, "n_frames", 1)
            self._animated = count > 1 and self.image.format in ANIMATIONS
            durations = tuple(self._duration(n) for n in range(count if self._animated else 0))
        except BROKEN as error:
            raise self._broken(error) from None
        self._deep = _has_deep_colors(self.image)
        self._mode = _mode(self._seek(0), animated=self._animated)
        self._at, self._frame = 0, self._decoded(0)
        channels = self._frame.shape[2] if self._frame.ndim == 3 else 1
        self.shape = (count if self._animated else 1, *self._frame.shape)
        self.dtype = self._frame.dtype
        notes = (f"the first of {count} pictures is read",) if count > 1 and not self._animated else ()
        self.metadata = _metadata(self.image, self._mode, channels, durations, notes)

    def __getitem__(self, key: Any) -> Array:
        n, *within = key
        part: Array = self.decoded(n)[tuple(within)]
        return part

    def decoded(self, n: int) -> Array:
        """Frame `n`: (Y, X, C) or (Y, X)."""
        if n != self._at:
            self._at, self._frame = n, self._decoded(n)
        return self._frame

    def _seek(self, n: int) -> Any:
        if self.image.tell() != n:
            self.image.seek(n)
        return self.image

    def _duration(self, n: int) -> int:
        image = self._seek(n)
        if image.format == "WEBP":
            image.load()  # Pillow has the duration only then
        return int(image.info.get("duration", 0))

    def _decoded(self, n: int) -> Array:
        try:
            if self._deep:
                pixels = needed("imagecodecs", "to read 16-bit PNG").png_decode(self._path.read_bytes())
            else:
                image = self._seek(n)
                image.load()
                pixels = np.asarray(image if image.mode == self._mode else image.convert(self._mode))
        except (*BROKEN, RuntimeError) as error:
            raise self._broken(error) from None
        native: Array = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        seen = upright(native, "YXC"[: native.ndim], self.image.getexif().get(ORIENTATION, 1))
        whole: Array = seen[(slice(None),) * native.ndim]
        return whole

    def _broken(self, error: BaseException) -> Exception:
        if isinstance(error, OSError) and error.errno:
            return error
        return InvalidArgumentError("input", "an image file", f"{self._path.name} ({error})")


def _has_deep_colors(image: ImageFile.ImageFile) -> bool:
    """Whether it is a 16-bit PNG that Pillow would read with 8 bits: any but opaque grey."""
    deep = image.format == "PNG" and any("16B" in str(tile.args) for tile in image.tile)
    return deep and (not image.mode.startswith("I") or image.has_transparency_data)


def _mode(image: Any, *, animated: bool) -> str:
    """Pillow's mode that has all colors and alpha of a picture as channels."""
    if animated:
        return "RGBA"  # later frames may have alpha or colors that the first has not
    if image.mode.startswith("I;16"):
        return "I;16"
    if image.mode in ("I", "F", "CMYK"):
        return str(image.mode)
    grey = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    return f"{grey}A" if image.has_transparency_data else grey


def _metadata(
    image: ImageFile.ImageFile, mode: str, channels: int, durations: tuple[int, ...], notes: tuple[str, ...]
) -> Metadata:
    exif = image.getexif()
    dpi: Any = tuple(map(float, image.info.get("dpi", ())))
    if exif.get(ORIENTATION) in SWAPPED:
        dpi = dpi[::-1]
    exif.pop(ORIENTATION, None)
    for tag in (WIDTH, HEIGHT):
        exif.get_ifd(EXIF_IFD).pop(tag, None)
    return Metadata(
        axes="YXS" if channels > 1 else "YX",
        photometric="separated" if mode == "CMYK" else "rgb" if channels >= 3 else "grey",
        alpha="unassociated" if channels in (2, 4) and mode != "CMYK" else "",
        dpi=dpi if len(dpi) == 2 and all(math.isfinite(d) and d > 0 for d in dpi) else None,
        icc_profile=(image.info.get("icc_profile") or b"") if image.mode != "LAB" else b"",
        exif=exif.tobytes() if len(exif) else b"",
        durations=durations,
        loop=image.info.get("loop"),
        notes=notes,
    )
