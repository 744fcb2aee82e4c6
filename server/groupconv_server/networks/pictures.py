"""Pictures in and out of networks, and the classes that a network finds."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.networks.tensors import TensorInfo

TOP = 5
"""Classes that are shown."""


def picture_input(
    path: Path, info: TensorInfo, mean: Sequence[float], std: Sequence[float], resize: tuple[int, int] | None
) -> Array:
    """A picture as a network takes it: (1, C, H, W), RGB or gray, from 0 to 1, less `mean`, over `std`.

    A network of integers gets the pixels as they are, from 0 to 255.

    Args:
        path: of the picture.
        info: the input: 4 axes, of which the second is 1 or 3.
        mean: one value, or one for each channel.
        std: one value, or one for each channel.
        resize: height and width; None takes the network's, or the picture's own where those are free.

    Raises:
        InvalidArgumentError: the file is no picture, the input takes none, the number of values is not that of the
            channels, or they are meant for a network of integers.
        OSError: the file cannot be read.
    """
    channels = info.shape[1] if len(info.shape) == 4 else None
    floats = info.dtype.kind not in "iub"
    if channels not in (1, 3) or not (floats or np.can_cast(np.uint8, info.dtype)):
        raise InvalidArgumentError("input", f"an array (.npy), as the network takes {info}", str(path))
    check_scaling(mean, std, channels)
    if not floats and (list(mean), list(std)) != ([0], [1]):
        raise InvalidArgumentError("--mean, --std", f"none, as the network takes {info.dtype}", [*mean, *std])
    try:
        with Image.open(path) as opened:
            picture = _upright(opened, info.name).convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError:
        raise InvalidArgumentError(info.name, "a picture or an array (.npy)", str(path)) from None
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise InvalidArgumentError(info.name, "a picture that is complete", f"{path.name} ({error})") from None
    height, width = resize or (info.shape[2], info.shape[3])
    size = (
        width if isinstance(width, int) else picture.width,
        height if isinstance(height, int) else picture.height,
    )
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(picture).reshape(size[1], size[0], channels).transpose(2, 0, 1)[None]
    if not floats:
        return pixels.astype(info.dtype)
    x = pixels.astype(np.float32) / np.float32(255)
    shape = (1, -1, 1, 1)
    return np.asarray((x - np.reshape(mean, shape)) / np.reshape(std, shape), np.float32).astype(info.dtype)


def _upright(picture: Image.Image, name: str) -> Image.Image:
    """A picture as viewers show it: turned as its EXIF says, and 16 bits as 8 (Pillow clips all above 255).

    Raises:
        InvalidArgumentError: its values are integers of 32 bits or floats, of which no range is known.
    """
    if picture.mode in ("I", "F"):
        expected = "a picture of 8 or 16 bits, or an array (.npy)"
        raise InvalidArgumentError(
            name, expected, f"one of {'integers of 32 bits' if picture.mode == 'I' else 'floats'}"
        )
    shown = ImageOps.exif_transpose(picture)
    if not shown.mode.startswith("I;16"):
        return shown
    return Image.fromarray(np.rint(np.asarray(shown) / 257).astype(np.uint8))


def check_scaling(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Refuse a `--mean` or `--std` that has neither one value nor one for each channel."""
    for name, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise InvalidArgumentError(name, f"1 or {channels} values", list(values))


def output_picture(y: Array) -> Image.Image:
    """An output as a picture: (1, C, H, W) with 1 or 3 channels, of which values from 0 to 1 are shown. NaN is 0.

    Raises:
        InvalidArgumentError: another shape.

    Example:
        >>> output_picture(np.ones((1, 1, 2, 3), np.float32)).size
        (3, 2)
    """
    plane = y[0] if y.ndim == 4 else y
    if y.ndim not in (3, 4) or (y.ndim == 4 and len(y) != 1) or plane.shape[0] not in (1, 3):
        raise InvalidArgumentError("--output", "a .npy file: the output is no picture", list(y.shape))
    values = np.nan_to_num(np.clip(plane.astype(np.float32) * (1 if y.dtype == np.uint8 else 255), 0, 255))
    pixels = np.rint(values).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def top_classes(y: Array, labels: Sequence[str]) -> list[tuple[str, float]] | None:
    """The classes with the highest values of an output (1, classes); None if the output does not look like classes.

    Args:
        y: the output.
        labels: names of the classes; without one a class is called by its number. Without any, only probabilities
            are taken for classes.

    Example:
        >>> top_classes(np.array([[0.1, 0.7, 0.2]]), ["cat", "dog"])
        [('dog', 0.7), ('2', 0.2), ('cat', 0.1)]
        >>> top_classes(np.array([[220.1, 219.8]]), []) is None
        True
    """
    flat = y.reshape(-1).astype(np.float64)
    if not y.ndim or y.shape[0] != 1 or flat.size != max(y.shape) or flat.size < 2 or y.dtype.kind not in "fiu":
        return None
    if not labels and (flat.min() < 0 or abs(flat.sum() - 1) > 0.01):
        return None
    best = np.argsort(-flat, kind="stable")[:TOP]
    return [(labels[i] if i < len(labels) else str(i), float(flat[i])) for i in best]
