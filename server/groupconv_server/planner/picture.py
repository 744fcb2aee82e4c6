"""Drawing of a plan: the feature maps of each step, cut into colored pieces with hatched halos."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from groupconv.convolution.plan import Plan, Range, Shard, StepPlan
from groupconv.text import milliseconds

SHEETS = 36
"""The most sheets drawn of a feature map."""


def draw(plan: Plan, path: Path) -> None:
    """Save a picture of a plan: a row for each step, its input on the left and its output on the right.

    A sheet shows the last two axes of space. Each part of the samples or channels has its own sheet. The color of a
    piece is that of its worker. Halos, the cells that several shards read, are hatched.

    Args:
        plan: of one step or more.
        path: .png or .svg.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (`pip install 'groupconv[demo]'`).
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    colors = dict(zip(plan.workers, _palette(len(plan.workers)), strict=True))
    size = (11, 0.8 + 4.6 * len(plan.steps))
    figure, axes = plt.subplots(len(plan.steps), 2, figsize=size, squeeze=False, layout="constrained")
    for i, (step, (left, right)) in enumerate(zip(plan.steps, axes, strict=True)):
        kept = " (stays on its worker)" if step.joined else ""
        _map(left, step, step.input_shape, [s.input for s in step.shards], colors)
        _map(right, step, step.output_shape, [s.output for s in step.shards], colors)
        left.set_title(f"step {i}: {step.variant}\ninput {_times(step.input_shape)}{kept}", fontsize=9, loc="left")
        right.set_title(
            f"cut along {step.cut}, predicted {milliseconds(step.seconds)}\noutput {_times(step.output_shape)}",
            fontsize=9,
            loc="left",
        )
    handles = [Patch(color=color, label=worker) for worker, color in list(colors.items())[:16]]
    handles.append(Patch(fill=False, hatch="////", label="read by several shards"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _map(axes: Any, step: StepPlan, shape: Sequence[int], pieces: Sequence[tuple[Range, ...]], colors: Any) -> None:
    """Draw a feature map: one sheet for each part of samples and channels."""
    from matplotlib.patches import Rectangle

    height, width = _plane(shape)
    sheets = sorted({(p[0], p[1]) for p in pieces}, key=lambda s: (s[0].start, s[1].start))[:SHEETS]
    columns = math.ceil(math.sqrt(len(sheets)))
    across, down = 1.1 * width, 1.1 * height + 0.06 * max(height, width)
    for n, sheet in enumerate(sheets):
        on_sheet = [(s, p) for s, p in zip(step.shards, pieces, strict=True) if (p[0], p[1]) == sheet]
        dx, dy = n % columns * across, n // columns * down
        for shard, piece in on_sheet:
            for y, x in _boxes(piece, shape):
                corner_and_size = ((x.start + dx, y.start + dy), x.stop - x.start, y.stop - y.start)
                axes.add_patch(
                    Rectangle(*corner_and_size, facecolor=colors[shard.worker], edgecolor="black", lw=0.8, alpha=0.6)
                )
        for y, x in _shared(on_sheet, shape):
            corner_and_size = ((x.start + dx, y.start + dy), x.stop - x.start, y.stop - y.start)
            axes.add_patch(Rectangle(*corner_and_size, fill=False, hatch="////", linewidth=0))
        if len(sheets) > 1:
            label = f"samples {sheet[0]}, channels {sheet[1]}" if columns < 4 else f"{sheet[0]}, {sheet[1]}"
            axes.text(dx, dy - 0.01 * height, label, fontsize=6, va="bottom")
    rows = math.ceil(len(sheets) / columns)
    axes.set_xlim(-0.02 * width, columns * across)
    axes.set_ylim(rows * down, -0.1 * height)
    square = max(height, width) < 8 * min(height, width)
    axes.set_aspect("equal" if square else "auto")
    axes.tick_params(labelsize=7)
    if len(sheets) > 1:
        axes.axis("off")


def _plane(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of a sheet: the last two axes of space. A single axis is drawn as a band."""
    return (max(1, shape[2] // 8), shape[2]) if len(shape) == 3 else (shape[-2], shape[-1])


def _boxes(piece: Sequence[Range], shape: Sequence[int]) -> Iterator[tuple[Range, Range]]:
    """The rectangles of a piece: more than one if it wraps around."""
    rows = [Range(0, _plane(shape)[0])] if len(shape) == 3 else _unrolled(piece[-2], shape[-2])
    for y in rows:
        for x in _unrolled(piece[-1], shape[-1]):
            yield y, x


def _unrolled(r: Range, extent: int) -> list[Range]:
    return [r] if r.stop <= extent else [Range(r.start, extent), Range(0, r.stop - extent)]


def _shared(pieces: Sequence[tuple[Shard, tuple[Range, ...]]], shape: Sequence[int]) -> Iterator[tuple[Range, Range]]:
    """The rectangles that two pieces share. Equal pieces are no halos: all filters read the whole input."""
    boxes = [list(_boxes(p, shape)) for _, p in pieces]
    for mine, others in itertools.combinations(boxes[:256], 2):
        if mine == others:
            continue
        for a, b in itertools.product(mine, others):
            y = Range(max(a[0].start, b[0].start), min(a[0].stop, b[0].stop))
            x = Range(max(a[1].start, b[1].start), min(a[1].stop, b[1].stop))
            if y.start < y.stop and x.start < x.stop:
                yield y, x


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _palette(count: int) -> list[Any]:
    """A color for each worker."""
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](i) for i in range(count)]
    return [colormaps["turbo"](0.05 + 0.9 * i / (count - 1)) for i in range(count)]
