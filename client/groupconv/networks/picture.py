"""Drawing of a network: a box for each operator with what follows it, colored by what it does."""

from collections.abc import Sequence
from typing import Any

from groupconv.networks.layout import Layout, arrange
from groupconv.networks.nodes import NodePlan
from groupconv.pictures import COLORS, SHARED, figure, ink

WIDTH, HEIGHT, GAP = 2.7, 0.62, 0.3
"""Inches of a box, and between layers."""
LONGEST_NAME = 34
KINDS = {
    "convolution": (COLORS[0], ("Conv",)),
    "matrix product": (COLORS[1], ("Gemm", "MatMul")),
    "pool": (COLORS[2], ("MaxPool", "AveragePool", "LpPool", "Global")),
    "normalization": (COLORS[3], ("Batch", "Instance", "Group", "LayerNorm", "LRN", "Softmax", "LogSoftmax")),
    "joins": (COLORS[4], ("Add", "Sum", "Mul", "Concat", "Sub", "Div")),
    "other": (SHARED, ("",)),
}
"""The color of a box, and how the operators begin that have it."""
APART = ("Conv", "Pool", "Gemm", "MatMul", "Concat", "Resize", "Upsample")
"""In the names of operators that always have a box of their own."""


def draw(nodes: Sequence[NodePlan], title: str) -> Any:
    """Draw a network. Long networks are wrapped into columns; numbers join edges between them.

    Args:
        nodes: of a plan.
        title: above the picture.

    Returns:
        A matplotlib figure.

    Raises:
        FailedPreconditionError: matplotlib is not installed (`pip install 'groupconv[pictures]'`).
    """
    boxes = [*_inputs(nodes), *grouped(nodes)]
    whole = sum(node.multiply_adds for node in nodes)
    layout = arrange(_readers(boxes), len(boxes))
    lefts = [sum(layout.width[:i]) * (WIDTH + GAP) for i in range(len(layout.width))]
    size = (max(6.0, sum(layout.width) * (WIDTH + GAP) + 0.5), max(layout.layers, default=1) * (HEIGHT + GAP) + 1.2)
    drawn = figure(*size)
    from matplotlib.patches import Patch

    drawn.set_layout_engine("none")  # boxes have their places
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]))
    axes.axis("off")

    def place(point: tuple[int, float, int]) -> tuple[float, float]:
        column, x, y = point
        return lefts[column] + (x + layout.width[column] / 2) * (WIDTH + GAP) + 0.25, size[1] - 1 - y * (HEIGHT + GAP)

    _edges(axes, layout, place)
    for i, box in enumerate(boxes):
        _box(axes, box, place(layout.boxes[i]), whole)
    axes.text(0.25, size[1] - 0.2, title, fontsize=11, va="top")
    handles = [Patch(facecolor=color, edgecolor="black", label=kind) for kind, (color, _) in KINDS.items()]
    axes.legend(handles=handles, loc="lower left", ncols=3, fontsize=8, frameon=False, borderaxespad=0.1)
    return drawn


def _inputs(nodes: Sequence[NodePlan]) -> list[list[NodePlan]]:
    """A box for each input of the network."""
    produced = {name for node in nodes for name in node.outputs}
    names = dict.fromkeys(name for node in nodes for name in node.inputs if name not in produced)
    return [[NodePlan(name, "input", None, 0, 0, "", (), (name,))] for name in names]


def grouped(nodes: Sequence[NodePlan]) -> list[list[NodePlan]]:
    """Nodes by box: an operator, and those behind it that read it alone and that alone read it.

    Example:
        >>> conv = NodePlan("c", "Conv", (1,), 0, 0, "", ("x",), ("y",))
        >>> relu = NodePlan("r", "Relu", (1,), 0, 0, "", ("y",), ("z",))
        >>> [[node.op for node in box] for box in grouped([conv, relu])]
        [['Conv', 'Relu']]
    """
    read: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            read[name] = read.get(name, 0) + 1
    boxes: list[list[NodePlan]] = []
    ends: dict[str, int] = {}
    for node in nodes:
        before = ends.get(node.inputs[0]) if len(node.inputs) == 1 else None
        alone = not any(part in node.op for part in APART)
        if before is not None and alone and read[node.inputs[0]] == 1 and len(boxes[before][-1].outputs) == 1:
            boxes[before].append(node)
            ends[node.outputs[0]] = before
        else:
            boxes.append([node])
            ends.update(dict.fromkeys(node.outputs, len(boxes) - 1))
    return boxes


def _readers(boxes: Sequence[Sequence[NodePlan]]) -> dict[int, list[int]]:
    makers = {name: i for i, box in enumerate(boxes) for node in box for name in node.outputs}
    readers: dict[int, list[int]] = {}
    for i, box in enumerate(boxes):
        for name in box[0].inputs:
            if name in makers:
                readers.setdefault(makers[name], []).append(i)
    return readers


def _edges(axes: Any, layout: Layout, place: Any) -> None:
    """Lines between boxes. An edge to another column ends at a number, and begins there at the same one."""
    number = 0
    numbers: dict[tuple[tuple[int, float, int], int], int] = {}
    for chain in layout.edges:
        parts = [[chain[0]]]
        for point in chain[1:]:
            if point[0] != parts[-1][-1][0]:
                key = parts[-1][-1], point[0]
                if key not in numbers:
                    number += 1
                    numbers[key] = number
                _connector(axes, place(parts[-1][-1]), -1, numbers[key])
                _connector(axes, place(point), 1, numbers[key])
                parts.append([])
            parts[-1].append(point)
        for part in parts:
            points = [place(point) for point in part]
            axes.plot([x for x, _ in points], [y for _, y in points], color="#555555", lw=0.9, zorder=1)


def _connector(axes: Any, at: tuple[float, float], side: int, number: int) -> None:
    x, y = at[0], at[1] + side * (HEIGHT + GAP) / 2
    axes.plot([x, x], [at[1], y], color="#555555", lw=0.9, zorder=1)
    axes.text(
        x, y, str(number), fontsize=6, ha="center", va="center", zorder=3,
        bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "#555555", "linewidth": 0.6},
    )  # fmt: skip


def _box(axes: Any, box: Sequence[NodePlan], at: tuple[float, float], whole: int) -> None:
    from matplotlib.patches import FancyBboxPatch

    first, last = box[0], box[-1]
    color = next(color for color, starts in KINDS.values() if first.op.startswith(starts))
    corner = at[0] - WIDTH / 2, at[1] - HEIGHT / 2
    axes.add_patch(
        FancyBboxPatch(
            corner, WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.06", facecolor=color, edgecolor="black",
            linewidth=0.8, zorder=2,
        )
    )  # fmt: skip
    shape = "" if first.op == "input" else "?" if last.shape is None else "×".join(map(str, last.shape)) or "scalar"
    share = f", {first.multiply_adds / whole:.0%} of work" if whole and first.multiply_adds else ""
    window = f"{first.window}: " if first.window else ""
    lines = (_short(" → ".join(node.op for node in box)), _short(first.name), f"{window}{shape}{share}")
    for i, (line, size) in enumerate(zip(lines, (7.5, 6, 6.5), strict=True)):
        weight = "bold" if i == 0 else "normal"
        height = at[1] + (0.18, 0, -0.18)[i]
        axes.text(
            at[0], height, line, fontsize=size, fontweight=weight, ha="center", va="center", color=ink(color), zorder=3
        )


def _short(text: str) -> str:
    """The end of a long name tells more than its beginning, of a list of operators the beginning does."""
    if len(text) <= LONGEST_NAME:
        return text
    return f"{text[: LONGEST_NAME - 1]}…" if " → " in text else f"…{text[1 - LONGEST_NAME :]}"
