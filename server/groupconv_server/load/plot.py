"""A picture of a load: throughput and latency over time, latency of each case, and the server's memory."""

from pathlib import Path
from typing import Any

import numpy as np

from groupconv.pictures import COLORS, LINES, figure, label_ends, plain, save
from groupconv_server.load.outcome import LoadOutcome

QUANTILES = (50, 95, 99)


def plot(outcome: LoadOutcome, path: Path, *, title: str) -> None:
    """Save the picture, in the format of the path's suffix (.png, .svg, .pdf)."""
    save(draw(outcome, title), path)


def draw(outcome: LoadOutcome, title: str) -> Any:
    """The picture as a matplotlib figure."""
    panels = 3 + bool(outcome.memory)
    rows = max(1.2, 0.35 * len(outcome.cases))
    fig = figure(9, 2.4 * (panels - 1) + rows + 1.0)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes = fig.subplots(panels, height_ratios=[2, 2, rows, *[2] * bool(outcome.memory)])
    ended = np.array([s.ended - outcome.start for s in outcome.samples])
    right = np.array([s.right for s in outcome.samples], dtype=bool)
    ms = np.array([s.seconds for s in outcome.samples]) * 1e3
    edges = np.linspace(0, outcome.elapsed, max(1, min(60, round(outcome.elapsed))) + 1)
    step = edges[1]

    _rates(axes[0], np.histogram(ended[right], edges)[0] / step, np.histogram(ended[~right], edges)[0] / step, edges)
    _cases(axes[2], outcome)
    if outcome.memory:
        at, size = np.array(outcome.memory).T
        axes[3].plot(at, size / 2**20, color=LINES[0][0])
        axes[3].set(
            xlabel="seconds",
            ylabel="server memory, MiB",
            xlim=(0, outcome.elapsed),
            ylim=(0, 1.1 * np.nanmax(size) / 2**20),
        )
        plain(axes[3].yaxis)
        plain(axes[3].xaxis)
    lines = _latencies(axes[1], ms[right], np.digitize(ended[right], edges[1:-1]), edges)
    for axis in axes[:2]:
        axis.set(xlabel="seconds", xlim=(0, outcome.elapsed))
        plain(axis.xaxis)
    label_ends(axes[1], lines)
    return fig


def _rates(axes: Any, right: Any, wrong: Any, edges: Any) -> None:
    axes.stairs(right, edges, fill=True, facecolor=COLORS[0], edgecolor="black", label="right answers")
    if wrong.any():
        axes.stairs(
            right + wrong,
            edges,
            baseline=right,
            fill=True,
            facecolor=COLORS[6],
            hatch="xxx",
            edgecolor="black",
            label="errors and wrong answers",
        )
    axes.set(ylabel="requests/s", ylim=(0, None))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderpad=0, fontsize=9)
    plain(axes.yaxis)


def _latencies(axes: Any, ms: Any, bins: Any, edges: Any) -> list[tuple[float, str, str]]:
    """Draw the percentiles over time; the end, name and color of each line."""
    ends = []
    middles = (edges[:-1] + edges[1:]) / 2
    for q, (color, style, marker) in zip(QUANTILES, LINES, strict=False):
        at = [i for i in range(len(middles)) if (bins == i).any()]
        line = [float(np.percentile(ms[bins == i], q)) for i in at]
        if line:
            axes.plot(middles[at], line, color=color, linestyle=style, marker=marker, markersize=4)
            ends.append((line[-1], f"p{q}", color))
    axes.set(ylabel="latency, ms", yscale="log")
    plain(axes.yaxis)
    return ends


def _cases(axes: Any, outcome: LoadOutcome) -> None:
    """A row for each case: its median and higher percentiles."""
    for i in range(len(outcome.cases)):
        if outcome.seconds(i).size:
            values = [outcome.milliseconds(q, i) for q in QUANTILES]
            axes.plot(values, [i] * len(values), color="black", linewidth=1, zorder=1)
            for value, q, (color, _, marker) in zip(values, QUANTILES, LINES, strict=False):
                label = f"p{q}" if not any(h.get_label() == f"p{q}" for h in axes.collections) else None
                axes.scatter([value], [i], color=color, marker=marker, s=30, zorder=2, label=label)
    axes.set(xlabel="latency, ms", xscale="log", ylim=(len(outcome.cases) - 0.5, -0.5))
    axes.set_yticks(range(len(outcome.cases)), outcome.cases, fontsize=8)
    if axes.collections:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderpad=0, fontsize=9)
    plain(axes.xaxis)
