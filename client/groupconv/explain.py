"""Plans and reports in words: aligned tables for people."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # plan.py prints itself with this
    from groupconv.plan import Plan, Range, Report, StepPlan

MOST_SHARDS = 64
"""Rows of a table; a plan for a thousand workers shows its beginning."""
MOST_ALTERNATIVES = 6


def plan(p: Plan) -> str:
    """A plan: for each step its shards, what else was considered, and why."""
    text = "\n\n".join(_step(i, step, _chain_seconds(p, i)) for i, step in enumerate(p.steps))
    return f"{text}\n\npredicted: {milliseconds(p.seconds)} for {len(p.steps)} steps" if len(p.steps) > 1 else text


def report(r: Report) -> str:
    """A report: predicted against measured, shard by shard."""
    blocks = []
    for i, (step, shards) in enumerate(zip(r.plan.steps, r.steps, strict=True)):
        rows = [("shard", "worker", "algorithm", "predicted", "in the engine", "dispatch to result", "attempts")]
        rows += [
            (
                str(ran.index),
                ran.worker,
                ran.algorithm,
                milliseconds(planned.seconds),
                milliseconds(ran.compute_seconds),
                milliseconds(ran.seconds),
                str(ran.attempts),
            )
            for planned, ran in list(zip(step.shards, shards, strict=True))[:MOST_SHARDS]
        ]
        measured = max(ran.seconds for ran in shards)
        head = f"step {i}  cut along {step.cut}{', joined to the step before' if step.joined else ''}: "
        head += f"predicted {milliseconds(step.seconds)}, measured {milliseconds(measured)}"
        blocks.append("\n".join([head, table(rows, left=frozenset({1, 2})), *_more(len(shards))]))
    phases = ", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in r.phases.items())
    return "\n\n".join([*blocks, f"phases: {phases}"] if phases else blocks)


def table(rows: Sequence[Sequence[str]], left: frozenset[int] = frozenset()) -> str:
    """Rows of cells as aligned text, the first row being the heading; columns in `left` are left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def human_bytes(count: int) -> str:
    """Bytes for people.

    Example:
        >>> human_bytes(1536), human_bytes(3 * 2**20)
        ('1.5 KiB', '3 MiB')
    """
    size, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if size >= 100 or size == int(size) else f"{size:.1f} {unit}"


def milliseconds(seconds: float) -> str:
    """Seconds for people, three digits of milliseconds.

    Example:
        >>> milliseconds(0.0012345), milliseconds(2.5)
        ('1.23 ms', '2500 ms')
    """
    ms = seconds * 1e3
    return f"{ms:.0f} ms" if ms >= 100 or ms == 0 else f"{ms:.3g} ms"


def _chain_seconds(p: Plan, first: int) -> float:
    """Predicted time of a step and of those that are joined to it."""
    joined = itertools.takewhile(lambda step: step.joined, p.steps[first + 1 :])
    return p.steps[first].seconds + sum(step.seconds for step in joined)


def _step(index: int, step: StepPlan, seconds: float) -> str:
    rows = [("shard", "worker", "input", "kernel", "output", "bytes in", "bytes out", "multiply-adds", "predicted")]
    rows += [
        (
            str(s.index),
            s.worker,
            _ranges(s.input),
            _ranges(s.kernel[:2]),
            _ranges(s.output) + (" (summed)" if s.partial else ""),
            human_bytes(s.bytes_in),
            human_bytes(s.bytes_out),
            f"{s.multiply_adds:,}",
            milliseconds(s.seconds),
        )
        for s in step.shards[:MOST_SHARDS]
    ]
    shapes = f"{step.input_shape} * {step.kernel_shape} -> {step.output_shape}"
    lines = [
        f"step {index}  {step.variant} convolution, g={step.groups}: {shapes}",
        f"cut along {step.cut}: {step.reason}",
        table(rows, left=frozenset({1, 2, 3, 4})),
        *_more(len(step.shards)),
    ]
    if step.alternatives:
        what = "" if seconds == step.seconds else " with the steps joined to it"
        lines.append(f"predicted {milliseconds(seconds)}{what}; considered as well:")
        considered = [
            (a.cut, f"{a.shards} shard{'s' * (a.shards > 1)}", milliseconds(a.seconds), _times(a.seconds, seconds))
            for a in step.alternatives[:MOST_ALTERNATIVES]
        ]
        lines.append(table([("  cut", "", "predicted", ""), *(("  " + c, *r) for c, *r in considered)], frozenset({0})))
    return "\n".join(lines)


def _times(seconds: float, best: float) -> str:
    return f"{seconds / best:.2f} ×" if best else ""


def _more(shards: int) -> list[str]:
    return [f"… and {shards - MOST_SHARDS} more"] if shards > MOST_SHARDS else []


def _ranges(ranges: Sequence[Range]) -> str:
    return f"[{', '.join(map(str, ranges))}]"
