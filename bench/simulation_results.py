"""What bench/simulate.py has found, as tables and as a picture."""

from dataclasses import dataclass
from typing import Any

from groupconv.pictures import LINES, figure, plain
from groupconv.text import milliseconds, table


@dataclass(frozen=True)
class Point:
    """One load on one number of workers.

    Attributes:
        workers: there were. shards: of the largest step.
        seconds: of one request alone, cut as is best for it.
        between: seconds between answers of a stream of requests cut so.
        whole: the same for requests that are not cut, as the coordinator does when as many are in flight as workers.
        coordinator: seconds of the coordinator per shard. planning: of a new shape, all steps.
        limited: what was busiest, and the part of the time it was busy.
    """

    workers: int
    shards: int
    seconds: float
    between: float
    whole: float
    coordinator: float
    planning: float
    limited: str


Results = dict[str, dict[str, list[Point]]]


def report(cluster: str, results: dict[str, list[Point]]) -> None:
    """Print a table for each load of a cluster."""
    for name, points in results.items():
        rows = [
            (
                "workers",
                "shards",
                "one request",
                "efficiency",
                "stream",
                "busiest",
                "uncut",
                "coordinator/shard",
                "planning",
            ),
            *(
                (
                    f"{p.workers:,}",
                    f"{p.shards:,}",
                    milliseconds(p.seconds),
                    f"{100 * points[0].seconds / p.seconds / p.workers:.1f} %",
                    f"{1 / p.between:.3g} /s",
                    p.limited,
                    f"{1 / p.whole:.3g} /s",
                    f"{p.coordinator * 1e6:.0f} µs",
                    milliseconds(p.planning),
                )
                for p in points
            ),
        ]
        print(f"{name}; {cluster}\n{table(rows)}\n")


def draw(results: Results) -> Any:
    """The picture as a matplotlib figure."""
    made = figure(13, 3.6 * len(results) + 0.5)
    axes = made.subplots(len(results), 3, squeeze=False)
    for row, (cluster, loads_of) in zip(axes, results.items(), strict=True):
        for (name, points), (color, _, marker) in zip(loads_of.items(), LINES, strict=True):
            x = [p.workers for p in points]
            one = points[0]
            style = {"color": color, "marker": marker, "markersize": 4}
            row[0].loglog(x, [one.whole / p.between for p in points], label=name, **style)
            row[0].loglog(x, [one.whole / p.whole for p in points], linestyle="--", **style)
            row[1].semilogx(x, [100 * one.seconds / p.seconds / p.workers for p in points], **style)
            row[2].semilogx(x, [1e6 * p.coordinator for p in points], **style)
        row[0].loglog(x, x, color="grey", linestyle=":", label="ideal")
        row[2].set_ylim(bottom=0)
        titles = (
            f"{cluster}\nstream, × one worker (dashed: requests not cut)",
            "efficiency of one request, %",
            "coordinator, µs a shard",
        )
        for axis, title in zip(row, titles, strict=True):
            axis.set_title(title, fontsize=9, loc="left")
            axis.set_xlabel("workers", fontsize=8)
            axis.set_xlim(1, max(x))
            axis.grid(alpha=0.3)
            plain(axis.yaxis)
            axis.xaxis.set_major_formatter("{x:,.0f}")
    made.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return made
