"""Drawing of a plan: input, kernel and output of each step, in tiles with the color and the name of their worker."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from groupconv.convolution.shards import Range, Shape, StepPlan
from groupconv.pictures import SEVERAL, SHARED, Look, figure, look, ticks
from groupconv.text import milliseconds

SHEETS = 16
"""The most sheets of a feature map that are drawn."""
STEPS = 12
"""The most steps that are drawn."""
LEGEND = 28
"""The most workers in the legend."""

Box = tuple[Range, Range]
"""A rectangle: the range across, and the range down."""


class Tile(NamedTuple):
    """The part of a sheet that a worker has: one box, or more where a range wraps around."""

    worker: str
    boxes: tuple[Box, ...]


class Sheet(NamedTuple):
    """A plane of a tensor: its title, and the tiles on it."""

    title: str
    tiles: list[Tile]


class Panel(NamedTuple):
    """A tensor to draw.

    Attributes:
        title: above it.
        across, down: names of the axes.
        width, height: of each sheet.
        sheets: one for each part that is not seen in the plane.
        square: whether cells are as wide as high.
    """

    title: str
    across: str
    down: str
    width: int
    height: int
    sheets: list[Sheet]
    square: bool


def draw(steps: Sequence[StepPlan], workers: Sequence[str]) -> Any:
    """A matplotlib figure with a row for each step: its input, its kernel, its output.

    A map of one axis is drawn as position by channel; of others the last two axes are drawn, and each part of the
    samples, channels and slices has its own sheet. What several workers read, or sum, is gray and hatched.

    Args:
        steps: of a plan.
        workers: of all steps; their order decides the colors.

    Raises:
        FailedPreconditionError: matplotlib is not installed.
    """
    looks = {worker: look(i) for i, worker in enumerate(workers)}
    drawn = steps[:STEPS]
    fig = figure(13, 0.7 + 0.25 * math.ceil((min(len(workers), LEGEND) + 1) / 7) + 3.7 * max(1, len(drawn)))
    names: list[_Name] = []
    rows = fig.subfigures(len(drawn), 1, squeeze=False)[:, 0] if drawn else []
    for i, (row, step) in enumerate(zip(rows, drawn, strict=True)):
        how = "measured" if step.measured else "predicted"
        row.suptitle(
            f"step {i}: {step.variant} convolution cut along {step.cut}, {how} {milliseconds(step.seconds)}"
            + (", each worker goes on with its own part" if step.joined else ""),
            x=0.01, ha="left", fontsize=11,
        )  # fmt: skip
        for axes, panel in zip(row.subplots(1, 3, width_ratios=(3, 2, 3)), _panels(step), strict=True):
            names += _draw_panel(axes, panel, looks)
    _legend(fig, looks, len(steps) - len(drawn))
    fig.draw_without_rendering()  # arranges the axes; names go where they fit
    fig.set_layout_engine("none")
    for name in names:
        name.write()
    return fig


def _panels(step: StepPlan) -> tuple[Panel, Panel, Panel]:
    source = _map("input", step.input_shape, [(s.worker, s.input) for s in step.shards])
    target = _map("output", step.output_shape, [(s.worker, s.output) for s in step.shards])
    first, second, *window = step.kernel_shape
    down, across = ("input", "output") if step.transposed else ("output", "input")
    tiles = [Tile(s.worker, ((s.kernel[1], s.kernel[0]),)) for s in step.shards]
    kernel = Panel(
        f"kernel {_times(step.kernel_shape)}: windows of {_times(window)}",
        f"{across} channels of a group",
        f"{down} channels",
        second,
        first,
        [Sheet("", tiles)],
        square=False,
    )
    return source, kernel, target


def _map(name: str, shape: Shape, pieces: Sequence[tuple[str, Sequence[Range]]]) -> Panel:
    """A feature map (N, C, *spatial)."""
    title, plane = f"{name} {_times(shape)}", 1 if len(shape) == 3 else len(shape) - 2
    hidden = ("samples", "channels", "slices")[:plane]
    sheets: dict[tuple[Range, ...], list[Tile]] = {}
    for worker, piece in pieces:
        boxes = tuple(itertools.product(_unrolled(piece[-1], shape[-1]), _unrolled(piece[-2], shape[-2])))
        sheets.setdefault(tuple(piece[:plane]), []).append(Tile(worker, boxes))
    varied = [len({key[i] for key in sheets}) > 1 for i in range(plane)]
    titled = [
        Sheet(", ".join(f"{hidden[i]} {key[i]}" for i in range(plane) if varied[i]), tiles)
        for key, tiles in sorted(sheets.items())
    ]
    if len(titled) > SHEETS:
        title += f", {SHEETS} of {len(titled)} parts"
    height, width = shape[-2:]
    across, down = ("position", "channels") if len(shape) == 3 else ("columns", "rows")
    square = len(shape) > 3 and max(height, width) < 4 * min(height, width)
    return Panel(title, across, down, width, height, titled[:SHEETS], square)


def _draw_panel(axes: Any, panel: Panel, looks: dict[str, Look]) -> Iterator["_Name"]:
    """Draw the sheets of a panel side by side; yield the names of its tiles."""
    columns = math.ceil(math.sqrt(len(panel.sheets))) or 1
    rows = math.ceil(len(panel.sheets) / columns) or 1
    across, down = 1.12 * panel.width, 1.28 * panel.height
    axes.set_xlim(0, (columns - 1) * across + panel.width)
    axes.set_ylim((rows - 1) * down + panel.height, 0)
    axes.set_aspect("equal" if panel.square else "auto")
    axes.set_title(panel.title, fontsize=9, loc="left", pad=18 if any(sheet.title for sheet in panel.sheets) else 6)
    axes.set(xlabel=panel.across, ylabel=panel.down)
    bottom, left = (ticks(n) if len(panel.sheets) == 1 else [0, n] for n in (panel.width, panel.height))
    axes.set_xticks(bottom, map(str, bottom))  # of the first sheet: the others have the same
    axes.set_yticks(left, map(str, left))
    axes.tick_params(labelsize=8)
    axes.spines[:].set_visible(False)
    for n, sheet in enumerate(panel.sheets):
        x, y = n % columns * across, n // columns * down
        if sheet.title:
            axes.annotate(sheet.title, (x, y), (0, 2), textcoords="offset points", fontsize=7, annotation_clip=False)
        yield from _draw_sheet(axes, sheet, looks, x, y)


def _draw_sheet(axes: Any, sheet: Sheet, looks: dict[str, Look], x: float, y: float) -> Iterator["_Name"]:
    several = Look(SHARED, SEVERAL, "black")
    owners: dict[Box, list[str]] = {}
    for tile in sheet.tiles:
        for box in tile.boxes:
            owners.setdefault(box, []).append(tile.worker)
    for box, of in owners.items():
        style = looks[of[0]] if len(set(of)) == 1 else several
        _rectangle(axes, box, style, x, y)
    overlaps = list(_overlaps([tile.boxes for tile in sheet.tiles]))
    for box in overlaps:
        _rectangle(axes, box, several, x, y)
    for box, of in owners.items():
        _rectangle(axes, box, None, x, y)  # the edge again: overlaps may have covered it
        names = list(dict.fromkeys(of))
        listed = "all workers" if len(names) == len(looks) else f"{len(names)} workers"
        own = _own(box, overlaps)
        if own is not None:
            text = ", ".join(names) if len(names) <= 3 else listed
            yield _Name(axes, text, own, looks[of[0]] if len(names) == 1 else several, x, y)


def _own(box: Box, overlaps: Sequence[Box]) -> Box | None:
    """The part of a box beside its overlaps with others; None if there is none."""
    for over in overlaps:
        for axis in (0, 1):
            mine, theirs, other, others = box[axis], over[axis], box[1 - axis], over[1 - axis]
            if others.start <= other.start and other.stop <= others.stop:  # it crosses the box
                if theirs.start <= mine.start < theirs.stop:
                    mine = Range(theirs.stop, mine.stop)
                elif theirs.start < mine.stop <= theirs.stop:
                    mine = Range(mine.start, theirs.start)
                if mine.length <= 0:
                    return None
                box = (mine, other) if axis == 0 else (other, mine)
    return box


class _Name(NamedTuple):
    """The name of a tile's worker, to be written where it fits."""

    axes: Any
    text: str
    box: Box
    look: Look
    x: float
    y: float

    def write(self) -> None:
        """Write it in the middle of the tile, across or down, as large as it fits; or not at all."""
        (across, down), place = self.box, self.axes.transData.transform
        (left, top), (right, bottom) = (
            place((self.x + getattr(across, e), self.y + getattr(down, e))) for e in ("start", "stop")
        )
        width, height = abs(right - left), abs(top - bottom)
        written = self.axes.text(
            self.x + (across.start + across.stop) / 2, self.y + (down.start + down.stop) / 2, self.text,
            ha="center", va="center", color=self.look.ink,
            bbox={"facecolor": self.look.color, "edgecolor": "none", "pad": 0.5} if self.look.hatch else None,
        )  # fmt: skip
        for rotation, size in itertools.product((0, 90), (9, 7.5, 6)):
            written.set(rotation=rotation, fontsize=size)
            extent = written.get_window_extent()
            if extent.width + 4 <= width and extent.height + 2 <= height:
                return
        written.remove()


def _rectangle(axes: Any, box: Box, style: Look | None, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    across, down = box
    filling = {"fill": False} if style is None else {"facecolor": style.color, "hatch": style.hatch}
    corner = (x + across.start, y + down.start)
    axes.add_patch(
        Rectangle(corner, across.length, down.length, edgecolor="black", linewidth=0.8, clip_on=False, **filling)
    )


def _overlaps(tiles: Sequence[tuple[Box, ...]]) -> Iterator[Box]:
    """The rectangles that two tiles share. Equal tiles are drawn as one."""
    for mine, others in itertools.combinations(tiles[:256], 2):
        if mine == others:
            continue
        for a, b in itertools.product(mine, others):
            across, down = (Range(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
            if across.length > 0 and down.length > 0:
                yield across, down


def _unrolled(r: Range, extent: int) -> list[Range]:
    return [r] if r.stop <= extent else [Range(r.start, extent), Range(0, r.stop - extent)]


def _legend(fig: Any, looks: dict[str, Look], undrawn: int) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=of.color, hatch=of.hatch, edgecolor="black", linewidth=0.8, label=worker)
        for worker, of in list(looks.items())[:LEGEND]
    ]
    if any(patch.get_hatch() == SEVERAL for axes in fig.axes for patch in axes.patches):
        label = "read or summed by several workers"
        handles.append(Patch(facecolor=SHARED, hatch=SEVERAL, edgecolor="black", linewidth=0.8, label=label))
    notes = [f"{len(looks) - LEGEND} more workers"] * (len(looks) > LEGEND) + [f"{undrawn} more steps"] * (undrawn > 0)
    handles += [Patch(facecolor="none", edgecolor="none", label=f"… and {note}") for note in notes]
    columns = min(7, len(handles))
    by_column = [handle for column in range(columns) for handle in handles[column::columns]]  # rows read in order
    fig.legend(handles=by_column, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
