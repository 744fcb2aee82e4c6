"""The contact sheet: the input and all outputs in one picture."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from groupconv.convolution.steps import Array
from groupconv_server.demo.check import Verdict


def draw(path: Path, photo: Array, verdicts: Sequence[Verdict]) -> None:
    """Save a PNG of the photograph (1, 3, H, W) and a tile for each verdict, with its shape and error."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    tiles = [("the photograph", picture(photo), "")]
    for v in verdicts:
        shape = "×".join(map(str, v.result.output.shape[1:]))
        mark = "" if v.passed else "  FAILED"
        tiles.append((v.case.name, picture(v.result.output), f"{shape}, error {v.error:.0e}{mark}"))
    columns = 6
    rows = math.ceil(len(tiles) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 2.5, rows * 2.9), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, pixels, note) in zip(axes.flat, tiles, strict=False):
        axis.imshow(pixels, aspect="auto" if pixels.shape[0] < 50 else "equal")
        axis.set_title(f"{title}\n{note}", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def picture(y: Array) -> Array:
    """A feature map as a picture (H, W, 3) in 0…1. Three channels are colors, others a mosaic of planes.

    Example:
        >>> picture(np.zeros((1, 8, 4, 5), np.float32)).shape
        (12, 15, 3)
    """
    y = y[0].astype(np.float32)
    if y.ndim == 2:  # a signal is stretched to a band
        y = np.repeat(y[:, None], 40, axis=1)
    if y.ndim == 4:  # of a volume, the middle plane
        y = y[:, y.shape[1] // 2]
    low, high = (float(e) for e in np.percentile(y, (1, 99)))
    y = np.clip((y - low) / (high - low or 1), 0, 1)
    if y.shape[0] == 3:
        return y.transpose(1, 2, 0)
    return np.repeat(_mosaic(y[:16])[:, :, None], 3, axis=2)


def _mosaic(planes: Array) -> Array:
    columns = math.ceil(math.sqrt(len(planes)))
    rows = math.ceil(len(planes) / columns)
    height, width = planes.shape[1:]
    sheet = np.ones((rows * height, columns * width), dtype=planes.dtype)
    for i, plane in enumerate(planes):
        top, left = (i // columns) * height, (i % columns) * width
        sheet[top : top + height, left : left + width] = plane
    return sheet
