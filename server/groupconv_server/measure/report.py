"""The measurements as a table, as JSON and as a roofline."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groupconv.pictures import LINES, figure, label_ends, name_points, plain
from groupconv.text import counted
from groupconv_server.measure.engine import Peaks, Row

FOCUS = ("resnext50_", "mobilenet_dw_", "convnext_dw7", "fcn_up_g21", "photo_")
"""The layers that this product exists for."""
HEADER = (
    f"{'layer':20} {'thr':>3} {'resident':>9} {'one-shot':>9} {'torch':>9} {'onnxrt':>9} {'numpy':>9}"
    f" {'res/peer':>8} {'one/peer':>8} {'GFLOP/s':>8} {'GB/s':>6} {'error':>8}  algorithm (one-shot)"
)


def line(row: Row) -> str:
    """One row of the table, under HEADER; times in ms."""
    torch = f"{row.torch_ms:9.3f}" if row.torch_ms is not None else f"{'':9}"
    algorithm = (
        row.algorithm if row.algorithm == row.oneshot_algorithm else f"{row.algorithm} ({row.oneshot_algorithm})"
    )
    return (
        f"{row.name:20} {row.threads:3} {row.ours_resident_ms:9.3f} {row.ours_oneshot_ms:9.3f} {torch}"
        f" {row.onnxruntime_ms:9.3f} {row.numpy_ms:9.3f} {row.ours_resident_ms / row.peer:8.2f}"
        f" {row.ours_oneshot_ms / row.peer:8.2f} {row.gflops:8.1f} {row.gbytes_per_s:6.1f} {row.error:8.1e}"
        f"  {algorithm}"
    )


def summary(rows: Sequence[Row]) -> str:
    """Geometric means of the ratios to the better peer, the worst row, the largest error and memory."""
    lines = []
    for threads in sorted({row.threads for row in rows}):
        mine = [row for row in rows if row.threads == threads]
        focus = [row for row in mine if row.name.startswith(FOCUS)]
        worst = max(mine, key=lambda row: row.ours_resident_ms / row.peer)
        text = (
            f"{threads} thread{'s' * (threads > 1)}, geometric means over {len(mine)} rows of time / better peer: "
            f"resident {_mean(mine):.2f}, one-shot {_mean(mine, oneshot=True):.2f}; "
        )
        if focus:
            text += f"grouped, depthwise and image rows {_mean(focus):.2f}; "
        text += f"worst row {worst.ours_resident_ms / worst.peer:.2f} ({worst.name}); "
        text += f"largest error {max(row.error for row in mine):.1e}; "
        over = [row.name for row in mine if row.extra_mib > row.allowed_mib]
        text += f"memory over its allowance: {', '.join(over) or 'no row'}"
        lines.append(text)
    return "\n".join(lines)


def _mean(rows: Sequence[Row], *, oneshot: bool = False) -> float:
    ratios = [(row.ours_oneshot_ms if oneshot else row.ours_resident_ms) / row.peer for row in rows]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """A list of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")


def draw_roofline(rows: Sequence[Row], peaks: Sequence[Peaks]) -> Any:
    """A matplotlib figure: GFLOP/s over FLOP per byte, one point per row, under the roof of each number of threads."""
    fig = figure(10, 6.5)
    axis = fig.subplots()
    roofs = []
    for peak, (color, style, marker) in zip(peaks, itertools.cycle(LINES), strict=False):
        mine = [row for row in rows if row.threads == peak.threads]
        span = sorted([0.3, *(row.intensity for row in mine), peak.gflops / peak.gbytes_per_s, 2000])
        roof = [min(peak.gflops, intensity * peak.gbytes_per_s) for intensity in span]
        axis.plot(span, roof, color=color, linestyle=style)
        label = f"{counted(peak.threads, 'thread')}: {peak.gflops:.0f} GFLOP/s, {peak.gbytes_per_s:.0f} GB/s"
        axis.scatter(
            [row.intensity for row in mine], [row.gflops for row in mine], color=color, marker=marker, s=24, label=label
        )
        roofs.append((roof[-1], counted(peak.threads, "thread"), color))
    axis.set(
        xscale="log", yscale="log", xlabel="FLOP per byte of input, weights and output", ylabel="GFLOP/s, resident"
    )
    axis.set_xlim(0.3, 2000)
    axis.grid(alpha=0.3)
    fig.legend(loc="outside upper left", ncols=2, frameon=False)
    plain(axis.xaxis)
    plain(axis.yaxis)
    label_ends(axis, roofs)
    left_out = name_points(axis, [(row.intensity, row.gflops, row.name) for row in rows])
    if left_out:
        fig.supxlabel(f"{counted(left_out, 'name')} had no room: the table has them", x=0.99, ha="right", fontsize=8)
    return fig
