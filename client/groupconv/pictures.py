"""The style of all pictures: colors that color-blind people can tell apart, hatching, line styles, plain numbers.

The colors are Okabe and Ito's, "Color Universal Design" (2008). `tests/server/test_pictures.py` measures them under
simulated color blindness. Pictures need matplotlib (`pip install 'groupconv[pictures]'`).
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from groupconv.errors import FailedPreconditionError, InvalidArgumentError

COLORS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00")
"""For areas. Each has a contrast of at least 4.5 to black or to white."""
SHARED = "#DDDDDD"
"""For what belongs to several workers, hatched with `SEVERAL`."""
SEVERAL = "////"
HATCHES = ("", "\\\\\\", "...", "xxx", "|||", "---")
"""Hatches tell apart workers beyond the number of colors, which repeat."""
LINES = (("#0072B2", "-", "o"), ("#D55E00", "--", "^"), ("#009E73", "-.", "s"), ("#000000", ":", "D"))
"""Color, line style and marker of each line; every color has a contrast of at least 3 to white."""
SUFFIXES = (".png", ".svg", ".pdf")


class Look(NamedTuple):
    """How an area looks: its color, its hatching, and the color of text on it."""

    color: str
    hatch: str
    ink: str


def look(index: int) -> Look:
    """The look of the worker at an index.

    Example:
        >>> look(0).color == look(7).color, look(0).hatch == look(7).hatch
        (True, False)
    """
    color = COLORS[index % len(COLORS)]
    return Look(color, HATCHES[index // len(COLORS) % len(HATCHES)], ink(color))


def ink(color: str) -> str:
    """Black or white, whichever is easier to read on a color (#RRGGBB), by WCAG's relative luminance.

    Example:
        >>> ink("#0072B2"), ink("#F0E442")
        ('white', 'black')
    """
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def figure(width: float, height: float) -> Any:
    """A matplotlib figure of this size in inches, which arranges its parts so that nothing overlaps.

    Raises:
        FailedPreconditionError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise FailedPreconditionError("a picture needs matplotlib: pip install 'groupconv[pictures]'") from None
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    return fig


def save(drawn: Any, path: str | Path) -> None:
    """Save a figure in the format of the path's suffix, in a folder that is made if it is missing.

    Raises:
        InvalidArgumentError: the suffix is none of `SUFFIXES`.
    """
    file = picture_path("path", path)
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(file, dpi=120)


def picture_path(field: str, path: str | Path) -> Path:
    """The path of a picture to write.

    Args:
        field: what errors call it.
        path: with a suffix of `SUFFIXES`.

    Raises:
        InvalidArgumentError: it has another suffix.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidArgumentError(field, f"a file name that ends in {', '.join(SUFFIXES)}", str(path))
    return file


def ticks(extent: int) -> list[int]:
    """About five whole numbers from 0 to `extent`, both included.

    Example:
        >>> ticks(27), ticks(1), ticks(256)
        ([0, 5, 10, 15, 20, 27], [0, 1], [0, 50, 100, 150, 200, 256])
    """
    rough = max(1.0, extent / 5)
    power = 10 ** math.floor(math.log10(rough))
    step = max(1, int(min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough))))
    return [t for t in range(0, extent, step) if extent - t > 0.6 * step] + [extent]


def plain(axis: Any) -> None:
    """Write the numbers of an axis as people do: 0.5, 20, 1000. A logarithmic one has 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(nbins=5, steps=(1, 2, 5, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))


def label_ends(axes: Any, lines: Sequence[tuple[float, str, str]]) -> None:
    """Write the name of each line to the right of the axes, at the height of its end; no two overlap.

    Args:
        axes: with final limits.
        lines: the last y, the name and the color of each.
    """
    axes.figure.draw_without_rendering()  # arranges the axes, so that heights are known
    low, high = axes.get_window_extent().y0, axes.get_window_extent().y1
    gap = 12 * axes.figure.dpi / 72
    at = [axes.transData.transform((axes.get_xlim()[0], y))[1] for y, _, _ in lines]
    order = sorted(range(len(lines)), key=lambda i: at[i])
    heights = dict(zip(order, spread([at[i] for i in order], gap, low, high), strict=True))
    for i, (_, name, color) in enumerate(lines):
        y = (heights[i] - low) / (high - low)
        axes.annotate(
            name, (1.0, y), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points", va="center",
            color=color, fontsize=9, annotation_clip=False,
        )  # fmt: skip


def spread(at: Sequence[float], gap: float, low: float, high: float) -> Iterator[float]:
    """Sorted positions moved apart until neighbors are `gap` apart, within `low` to `high` where there is room.

    Example:
        >>> list(spread([1.0, 1.0, 9.0], 2.0, 0.0, 10.0))
        [1.0, 3.0, 9.0]
        >>> list(spread([9.0, 9.5], 2.0, 0.0, 10.0))
        [8.0, 10.0]
    """
    moved = list(at)
    for i, _ in enumerate(moved):
        moved[i] = max(moved[i], low if i == 0 else moved[i - 1] + gap)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], high if i == len(moved) - 1 else moved[i + 1] - gap)
    yield from moved


def name_points(axes: Any, points: Sequence[tuple[float, float, str]]) -> int:
    """Write a name beside each point, where it overlaps no other name and stays within the axes.

    Args:
        axes: with final limits.
        points: x, y and the name of each.

    Returns:
        The number of names that found no place, and were left out.
    """
    axes.figure.draw_without_rendering()  # arranges the axes, so that places are known
    from matplotlib.transforms import Bbox

    marks = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken: list[Any] = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in marks]
    inside, left_out = axes.get_window_extent(), 0
    for x, y, name in points:
        written = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=7)
        for distance in (5, 10, 18):
            for across, down in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)):
                written.set(
                    position=(across * distance, down * distance),
                    ha=("right", "center", "left")[across + 1],
                    va=("top", "center", "bottom")[down + 1],
                )
                box = written.get_window_extent()
                fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
                if fits and not any(box.overlaps(other) for other in taken):
                    break
            else:
                continue
            taken.append(box)
            break
        else:
            written.remove()
            left_out += 1
    return left_out
