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
from groupconv_server.files.attributes import not_kept
from groupconv_server.files.axes import Axis, axes_of
from groupconv_server.files.deep import deep_decoder
from groupconv_server.files.derived import SWAPPED, upright
from groupconv_server.files.encoders import encoder_of
from groupconv_server.files.layout import Layout, View
from groupconv_server.files.metadata import Metadata
from groupconv_server.files.output import replaced

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
ANY_ORDER = False
ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose frames are animations. Other formats have pages, or previews of other sizes."""
ORIENTATION, EXIF_IFD, WIDTH, HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003
"""EXIF tags that an output drops: it is upright and may have another size."""
OTHERS = {
    ".npz": ".npy, for which numpy.save takes one of its arrays",
    ".zarr.zip": ".zarr, for which unzip it",
    **dict.fromkeys((".czi", ".nd2", ".lif", ".oib", ".oif", ".vsi", ".dv"), ".zarr, which bioformats2raw makes of it"),
    **dict.fromkeys((".nii", ".nii.gz", ".dcm", ".fits"), ".npy, .tif or .h5 of its array"),
}
"""Formats of arrays that are not read, and what they can be made."""
PNG_XMP, SRGB_GAMMA, ENCODER = "XML:com.adobe.xmp", 0.45455, b"Created by"
"""Keys and values in pictures: of XMP in PNG, of the usual gamma, and how comments by encoders begin."""
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
        self._deep = deep_decoder(self.image, path)
        self._mode = _mode(self._seek(0), animated=self._animated)
        self._at, self._frame = 0, self._decoded(0)
        channels = self._frame.shape[2] if self._frame.ndim == 3 else 1
        self.shape = (count if self._animated else 1, *self._frame.shape)
        self.dtype = self._frame.dtype
        first = (f"the first of {count} pictures is read",) if count > 1 and not self._animated else ()
        notes = (*first, *not_kept(_unread(self.image)))
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
        if image.format in ("WEBP", "AVIF"):
            image.load()  # Pillow has the duration only then
        return int(image.info.get("duration", 0))

    def _decoded(self, n: int) -> Array:
        try:
            if self._deep:
                pixels = self._deep()
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
        if isinstance(error, Image.DecompressionBombError):
            pixels = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            most = f"a picture of at most {pixels} pixels, else TIFF or Zarr, which are read by parts"
            return InvalidArgumentError("input", most, f"{self._path.name} ({error})")
        hint = next((f", or {how}" for suffix, how in OTHERS.items() if self._path.name.lower().endswith(suffix)), "")
        return InvalidArgumentError("input", f"an image file{hint}", f"{self._path.name} ({error})")


def _unread(image: Any) -> list[str]:
    """Names of what a picture says and no output does."""
    info, text = image.info, dict(getattr(image, "text", None) or {})
    found = ["XMP"] if text.pop(PNG_XMP, None) or info.get("xmp") else []
    found += [f"text ({', '.join(map(str, text))})"] if text else []
    found += ["IPTC or Photoshop's records"] if info.get("photoshop") else []
    comment = info.get("comment", b"")
    if comment and "comment" not in text and not bytes(str(comment), "utf-8").lstrip(b"b'").startswith(ENCODER):
        found.append("comment")
    if "gamma" in info and abs(info["gamma"] - SRGB_GAMMA) > 0.01:
        found.append(f"gamma {info['gamma']:g}")
    return found


def _mode(image: Any, *, animated: bool) -> str:
    """Pillow's mode that has all colors and alpha of a picture as channels."""
    if animated:
        return "RGBA"  # later frames may have alpha or colors that the first has not
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
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
