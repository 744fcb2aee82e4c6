"""The contact sheet: the input and all outputs in one picture."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.pictures import LINES, figure, plain
from groupconv_server.demo.check import Verdict

COLUMNS = 6


def draw(photo: Array, verdicts: Sequence[Verdict]) -> Any:
    """A matplotlib figure: the photograph (1, 3, H, W) and a tile for each verdict, with its shape and error."""
    tiles = [("the photograph", photo, "")]
    for v in verdicts:
        shape = "×".join(map(str, v.result.output.shape[1:]))
        mark = "" if v.passed else "  FAILED"
        tiles.append((v.case.name, v.result.output, f"{shape}, error {v.error:.0e}{mark}"))
    rows = math.ceil(len(tiles) / COLUMNS)
    fig = figure(COLUMNS * 2.5, rows * 2.9)
    axes = fig.subplots(rows, COLUMNS, squeeze=False)
    for axis in axes.flat[len(tiles) :]:
        axis.axis("off")
    for axis, (title, y, note) in zip(axes.flat, tiles, strict=False):
        axis.set_title("\n".join([*textwrap.wrap(title, 34), note]), fontsize=7)
        if y.ndim == 3:
            _signal(axis, y[0])
        else:
            axis.axis("off")
            axis.imshow(picture(y))
    return fig


def _signal(axis: Any, y: Array) -> None:
    """Values over positions of the first channels of a signal (C, L)."""
    for channel, (color, style, _) in zip(y[: len(LINES)].astype(np.float32), LINES, strict=False):
        axis.plot(channel, color=color, linestyle=style, linewidth=1)
    axis.set_xlim(0, y.shape[-1])
    axis.set_xticks([0, y.shape[-1]])
    axis.set_xlabel("position", fontsize=7, labelpad=-6)
    axis.tick_params(labelsize=6)
    axis.locator_params(axis="y", nbins=3)
    plain(axis.yaxis)


def picture(y: Array) -> Array:
    """A feature map as a picture (H, W, 3) in 0…1. Three channels are colors, others a mosaic of planes.

    Example:
        >>> picture(np.zeros((1, 8, 4, 5), np.float32)).shape
        (12, 15, 3)
    """
    y = y[0].astype(np.float32)
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
