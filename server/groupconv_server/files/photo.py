"""PNG, JPEG and whatever else Pillow reads; whole images in memory, since their decoders know no parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv_server.files.axes import Layout, Opened, View, Writable
from groupconv_server.files.output import replaced

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    try:
        with iio.imopen(path, "r", plugin="pillow") as file:
            pixels, mode = file.read(index=0), file.metadata(index=0).get("mode")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise InvalidArgumentError("input", "an image file", f"{path.name} ({error})") from None
    alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4) and mode != "CMYK"
    yield Opened(View(pixels, axes or "yxc"[: pixels.ndim]), alpha)


@contextmanager
def create_output(path: Path, layout: Layout, dtype: np.dtype, *, alpha: bool) -> Iterator[Writable]:  # noqa: ARG001
    """See `files.create_output`.

    Raises:
        InvalidArgumentError: a volume, several samples, or a format that does not hold it.
    """
    if path.suffix.lower() not in iio_suffixes():
        raise InvalidArgumentError("output", "a format that is known (.tif, .zarr, .h5, .npy, .png, .jpg)", path)
    shape = layout.shape
    if len(shape) != 4 or shape[0] != 1 or shape[1] > 4:
        raise InvalidArgumentError("output", "one image of 1 to 4 channels (else .tif, .zarr, .h5, .npy)", shape)
    with replaced(path) as new:
        pixels = np.zeros((*shape[2:], shape[1]), dtype)
        yield View(pixels, "yxc")
        try:
            iio.imwrite(new, pixels[:, :, 0] if shape[1] == 1 else pixels, plugin="pillow")
        except (OSError, ValueError, KeyError, TypeError) as error:
            if getattr(error, "errno", None):
                raise
            expected = "a format that holds this image (.png, .jpg, .tif, .npy)"
            raise InvalidArgumentError("output", expected, f"{dtype} {shape} for {path.name} ({error})") from None


def iio_suffixes() -> set[str]:
    """Suffixes that Pillow writes."""
    from PIL import Image

    return set(Image.registered_extensions())
