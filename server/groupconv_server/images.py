"""Photographs as feature maps (1, C, H, W) and back."""

from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv.requests import Array


@dataclass(frozen=True)
class Photograph:
    """An image as a feature map.

    Attributes:
        pixels: (1, C, H, W), colours without the alpha channel.
        alpha: (H, W) or None; it is put back unchanged.
    """

    pixels: Array
    alpha: Array | None

    @property
    def depth(self) -> np.dtype:
        """The integer dtype of its pixels, which results are saturated to."""
        return self.pixels.dtype


def read(path: Path) -> Photograph:
    """The image in a file of any format that Pillow reads.

    Raises:
        InvalidArgumentError: a file that is no image, or an animation.
    """
    try:
        pixels = iio.imread(path, plugin="pillow")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise InvalidArgumentError("photo", "an image file", f"{path} ({error})") from None
    return from_pixels(pixels)


def from_pixels(pixels: Array) -> Photograph:
    """(H, W), (H, W, C) or with alpha (C of 2 or 4) as a photograph.

    Example:
        >>> from_pixels(np.zeros((4, 6, 4), np.uint8)).pixels.shape
        (1, 3, 4, 6)
    """
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] > 4:
        raise InvalidArgumentError("photo", "one image of 1 to 4 channels", pixels.shape)
    has_alpha = pixels.shape[2] in (2, 4)
    colours = pixels[:, :, :-1] if has_alpha else pixels
    feature_map = np.ascontiguousarray(colours.transpose(2, 0, 1))[None]
    return Photograph(feature_map, pixels[:, :, -1] if has_alpha else None)


def saturate(y: Array, dtype: np.dtype) -> Array:
    """Round to integers and clip to the range of `dtype`; NaN becomes 0.

    Example:
        >>> saturate(np.array([-3.0, 1.6, 300.0]), np.dtype("uint8")).tolist()
        [0, 2, 255]
    """
    if not np.issubdtype(dtype, np.integer):
        return y.astype(dtype)
    info = np.iinfo(dtype)
    clipped: Array = np.clip(np.rint(np.nan_to_num(y.astype(np.float64))), info.min, info.max).astype(dtype)
    return clipped


def write(path: Path, y: Array, like: Photograph) -> None:
    """Save (1, C, H, W) as an image of `like`'s depth, or as it is where the path ends in .npy.

    Raises:
        InvalidArgumentError: a format that cannot hold it.
    """
    if path.suffix == ".npy":
        np.save(path, y)
        return
    pixels = saturate(y[0].transpose(1, 2, 0), like.depth)
    if like.alpha is not None and like.alpha.shape == pixels.shape[:2]:
        pixels = np.concatenate([pixels, like.alpha[:, :, None]], axis=2)
    try:
        iio.imwrite(path, pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, plugin="pillow")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError(
            "output", "a format that holds this image (.png, .jpg, .npy)", f"{path} ({error})"
        ) from None
