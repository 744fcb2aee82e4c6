"""Writing pictures with Pillow, or with imagecodecs for 16-bit PNG.

A tiny picture that is written and read again shows what a format can hold.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv_server.files.extras import needed
from groupconv_server.files.metadata import UNKNOWN, Metadata, missing
from groupconv_server.files.values import saturate

FAITHFUL: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "GIF": {"disposal": 2},
}
"""Options with which formats lose less than with their defaults."""
SIGNATURE_AND_HEADER = 33
"""Bytes of a PNG before its other chunks."""


@dataclass
class Encoder:
    """Writes pixels to a file.

    Attributes:
        format: Pillow's name of the format.
        mode: Pillow's mode of the written pixels; None for 16-bit PNG, which imagecodecs writes.
        colors: channels of the given pixels, without alpha.
        metadata: of the pixels.
        options: keywords of Pillow's `save`.
        rounds_alpha: whether the format has only opaque and clear pixels.
        notes: lines for the user about metadata that the format cannot hold.
        left_out: lines for the user about channels that the format cannot hold.
    """

    format: str
    mode: str | None
    colors: int
    metadata: Metadata
    options: dict[str, Any] = field(default_factory=dict)
    rounds_alpha: bool = False
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of the written pixels."""
        if self.mode is None:
            return (3 if self.metadata.photometric == "separated" else self.colors) + bool(self.metadata.alpha)
        return len(Image.new(self.mode, (1, 1)).getbands())

    def write(self, path: Path, pixels: Array) -> None:
        """Write frames.

        Args:
            path: of the new file.
            pixels: (N, Y, X, C).
        """
        if self.metadata.alpha == "associated":
            pixels = unassociated(pixels)
        if self.metadata.photometric == "separated" and self.mode != "CMYK":
            pixels = rgb_of_inks(pixels)
        if self.mode is None:
            path.write_bytes(_deep_png(pixels[0], self.options))
            return
        frames = [self._image(frame) for frame in pixels]
        with path.open("wb") as file:
            frames[0].save(file, self.format, **self.options, **_frame_options(self.metadata, frames[1:]))

    def _image(self, frame: Array) -> Image.Image:
        assert self.mode is not None
        channels = self.channels
        if frame.shape[-1] == 2 and channels == 4:  # the format has alpha only beside colors
            frame = frame[..., [0, 0, 0, 1]]
        if self.rounds_alpha:
            frame = np.concatenate([frame[..., :-1], np.where(frame[..., -1:] < 128, 0, 255).astype(frame.dtype)], -1)
        return Image.frombytes(self.mode, frame.shape[1::-1], frame[..., :channels].tobytes())


def encoder_of(suffix: str, shape: tuple[int, ...], dtype: np.dtype, metadata: Metadata) -> Encoder:
    """The encoder for pictures of a shape and dtype.

    Args:
        suffix: of the file's name.
        shape: (N, C, Y, X).
        dtype: of the pixels.
        metadata: of the pixels.

    Raises:
        InvalidArgumentError: the format is unknown, or cannot hold such pictures.
    """
    name = Image.registered_extensions().get(suffix)
    if name not in Image.SAVE:
        raise InvalidArgumentError("output", "a known format (.tif, .zarr, .h5, .npy, .png, .jpg)", suffix)
    if len(shape) != 4 or (shape[0] > 1 and not metadata.durations):
        raise InvalidArgumentError("output", f"one image for {suffix} (else .tif, .zarr, .h5, .npy)", shape)
    colors = shape[1] - bool(metadata.alpha)
    inks = metadata.photometric == "separated" and colors == 4
    if (
        dtype == np.uint16
        and name == "PNG"
        and shape[0] == 1
        and (colors == 3 or inks or (metadata.alpha and colors == 1))
    ):
        return _with_metadata(Encoder(name, None, colors, metadata), inks=inks)
    bases = [m for m in ("CMYK", "RGB") if inks] or [
        m for m in ("L", "RGB", "I;16", "F", "I") if _fits(m, dtype, colors)
    ]
    alphas = {"L": ["LA", "RGBA"], "RGB": ["RGBA"]} if metadata.alpha else {}
    modes = [mode for base in bases for mode in (*alphas.get(base, ()), base) if dtype == np.uint8 or not inks]
    mode = next((m for m in modes if _supports(name, m, shape)), None)
    if mode is None:
        kinds = f"1 or 3 channels, with or without alpha, of a dtype that {suffix} holds (else .tif, .npy, .zarr, .h5)"
        raise InvalidArgumentError("output", kinds, f"{dtype} {shape} for {name} ({suffix})")
    encoder = Encoder(name, mode, colors, metadata, dict(FAITHFUL.get(name, {})))
    if metadata.alpha and not mode.endswith("A"):
        encoder.left_out = (f"{name} holds no alpha: left out",)
    elif metadata.alpha and _alpha_kept(name, mode) == "clear":
        encoder.rounds_alpha = True
        encoder.notes = (f"{name} holds only opaque and clear pixels: alpha is rounded",)
    if name == "GIF" and mode != "L":
        encoder.notes += ("GIF holds 256 colors: others are replaced by the nearest",)
    return _with_metadata(encoder, inks=inks)


def unassociated(pixels: Array) -> Array:
    """Pixels (…, C) with their colors divided by alpha, the last channel."""
    largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    colors, alpha = pixels[..., :-1].astype(np.float64), pixels[..., -1:]
    divided = np.divide(colors * largest, alpha, out=np.zeros_like(colors), where=alpha != 0)
    return np.concatenate([saturate(divided, pixels.dtype), alpha], axis=-1)


def rgb_of_inks(pixels: Array) -> Array:
    """RGB pixels from CMYK pixels (…, 4), or (…, 5) with alpha, of unsigned integers.

    As in Pillow, without a printer's profile: each ink and the black absorb their share of the light.
    """
    largest = np.iinfo(pixels.dtype).max
    light = largest - pixels[..., :4].astype(np.float64)
    rgb = saturate(light[..., :3] * light[..., 3:] / largest, pixels.dtype)
    return np.concatenate([rgb, pixels[..., 4:]], axis=-1)


def _fits(mode: str, dtype: np.dtype, colors: int) -> bool:
    kinds = {"L": ("uint8", 1), "RGB": ("uint8", 3), "I;16": ("uint16", 1), "F": ("float32", 1), "I": ("int32", 1)}
    return kinds[mode] == (dtype.name, colors)


def _with_metadata(encoder: Encoder, *, inks: bool) -> Encoder:
    """Put the metadata that the format can hold into the options, and name the rest in the notes."""
    metadata = encoder.metadata
    wanted: dict[str, Any] = {}
    if dpi := metadata.pixels_per_inch():
        wanted["dpi"] = dpi
    if inks and encoder.mode != "CMYK":
        encoder.notes += ("inks are written as RGB",) + ("the ICC profile is for inks: left out",) * bool(
            metadata.icc_profile
        )
    elif metadata.icc_profile:
        wanted["icc_profile"] = metadata.icc_profile
    if metadata.exif:
        wanted["exif"] = metadata.exif
    held = {key: value for key, value in wanted.items() if _keeps_option(encoder, key, value)}
    encoder.options.update(held)
    known = {*held, "durations"} | (
        {"pixel_sizes"} if "dpi" in held and set(metadata.pixel_sizes) <= set("XY") else set()
    )
    known |= {"icc_profile"} if "icc_profile" not in wanted else set()
    encoder.notes += missing(encoder.format, metadata.left_out(*known))
    return encoder


def _keeps_option(encoder: Encoder, key: str, value: Any) -> bool:
    """Whether a tiny picture written with an option has it when it is read again."""
    tiny = _reopened(encoder.format, [Image.new(encoder.mode or "RGB", (2, 2))], **{key: value})
    stored = tiny and tiny.info.get(key)
    if key == "dpi":
        return bool(stored) and bool(np.allclose(np.array(stored, float), value, rtol=0.01, atol=0.6))
    return bool(stored) if key == "exif" else stored == value


def _supports(name: str, mode: str, shape: tuple[int, ...]) -> bool:
    """Whether a format keeps the mode, the size and the number of these pictures."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    colors = (0, (255,) * bands if bands > 1 else 255)  # a frame that looks like the one before would be joined to it
    tiny = _reopened(name, [Image.new(mode, (2, 2), color) for color in colors[: shape[0]]])
    if tiny is None or (shape[0] > 1 and getattr(tiny, "n_frames", 1) < 2):
        return False
    if mode in ("CMYK", "I;16", "F", "I") and tiny.mode != mode:
        return False
    if mode.endswith("A") and not _alpha_kept(name, mode):
        return False
    height, width = shape[2:]
    return all(_reopened(name, [Image.new(mode, size)]) is not None for size in ((width, 1), (1, height)))


def _alpha_kept(name: str, mode: str) -> str:
    """What a format keeps of alpha: "all", "clear" (only opaque and clear pixels) or "" (nothing)."""
    opaque_or_clear = [[255, 0], [0, 255], [255, 0]]
    for word, values in (("all", [[255, 0], [0, 255], [150, 30]]), ("clear", opaque_or_clear)):
        alpha = np.array(values, np.uint8)
        image = Image.new(mode, alpha.shape[::-1], 90)
        image.putalpha(Image.fromarray(alpha))
        tiny = _reopened(name, [image])
        decoded = (
            np.asarray(tiny.convert("RGBA"))[..., 3] if tiny and tiny.has_transparency_data else np.full((3, 2), 255)
        )
        if np.abs(decoded.astype(int) - alpha).max() <= 2:
            return word
    return ""


def _reopened(name: str, frames: Sequence[Image.Image], **options: Any) -> Any:
    """Pictures saved and opened again; None if the format refuses them."""
    file = io.BytesIO()
    try:
        frames[0].save(file, name, **FAITHFUL.get(name, {}), **options, **_frame_options(UNKNOWN, frames[1:]))
        file.seek(0)
        image = Image.open(file)
        image.load()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SyntaxError):
        return None
    return image


def _frame_options(metadata: Metadata, others: Sequence[Image.Image]) -> dict[str, Any]:
    if not others:
        return {}
    loop = {} if metadata.loop is None else {"loop": metadata.loop}
    durations = {"duration": list(metadata.durations)} if metadata.durations else {}
    return {"save_all": True, "append_images": list(others), **durations, **loop}


def _deep_png(pixels: Array, options: dict[str, Any]) -> bytes:
    """A 16-bit PNG of pixels (Y, X, C), with the metadata chunks that Pillow writes for a tiny picture."""
    tiny = io.BytesIO()
    Image.new("RGB", (1, 1)).save(tiny, "PNG", **options)
    chunks = tiny.getvalue()[SIGNATURE_AND_HEADER:]
    end = 0
    while chunks[end + 4 : end + 8] != b"IDAT":
        end += 12 + int.from_bytes(chunks[end : end + 4], "big")  # length, type, data, checksum
    encoded: bytes = needed("imagecodecs", "to write 16-bit PNG").png_encode(np.ascontiguousarray(pixels))
    return encoded[:SIGNATURE_AND_HEADER] + chunks[:end] + encoded[SIGNATURE_AND_HEADER:]
