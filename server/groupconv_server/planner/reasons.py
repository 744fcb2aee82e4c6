"""Sentences that explain a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from groupconv.convolution import cost
from groupconv.convolution.plan import Alternative
from groupconv.text import milliseconds

if TYPE_CHECKING:
    from groupconv_server.planner.search import PlannedChain


def first(c: PlannedChain, before: PlannedChain | None, considered: Sequence[Alternative], workers: int) -> str:
    """Why the first step of a chain has its cut and, after another chain, why results are merged before it."""
    text = _merged(c, before) if before is not None else ""
    if c.cut.parts == 1:
        return text + _whole(c, considered, workers)
    return text + _split(c, considered)


def joined(c: PlannedChain, i: int) -> str:
    """Why no results are merged before a later step of a chain."""
    text = f"each shard continues with its own part of step {c.first + i - 1}, nothing is merged in between"
    if c.cut.group > 1:
        text += f" ({c.cut.group} towers of the {c.chain[i].geometry.groups} groups)"
    whole = cost.multiply_adds(c.chain[i - 1].geometry)
    repeated = sum(cost.multiply_adds(s[i - 1].problem.geometry) for s in c.shards) - whole
    if repeated > 0:
        text += f"; the halos between them repeat {100 * repeated / whole:.1f} % of that step"
    return text


def _merged(c: PlannedChain, before: PlannedChain) -> str:
    """Why results are merged between two chains."""
    g, last = c.chain[0].geometry, before.chain[-1].geometry
    step = c.first - 1
    if before.cut.group > 1 and g.groups != last.groups:
        return (
            f"regrouped: step {step} has g={last.groups}, this one g={g.groups}, so results are merged and cut again; "
        )
    if before.cut == c.cut and c.cut.parts == 1:
        return ""
    return f"results of step {step} are merged and cut again: cheaper than halos or a cut that both steps share; "


def _whole(c: PlannedChain, considered: Sequence[Alternative], workers: int) -> str:
    if workers == 1:
        return "one worker runs all of it"
    if not considered:
        return "it cannot be cut"
    best = min(considered, key=lambda a: a.seconds)
    return f"not split: {_time(c)} on one worker; {best.shards} shards along {best.cut}, {_time(best)}"


def _split(c: PlannedChain, considered: Sequence[Alternative]) -> str:
    g = c.chain[0].geometry
    explained = {
        "group": f"{g.groups} independent groups",
        "batch": f"{g.batch} independent samples",
        "filter": f"{c.chain[-1].geometry.out_channels} filters over the same input",
        "space": "tiles with their halos",
        "channel": "partial sums over input channels, added at the end (the caller allows reordering)",
    }
    used = [
        name
        for name, n in (
            ("group", c.cut.group),
            ("batch", c.cut.batch),
            ("filter", c.cut.filter),
            ("space", max(c.cut.space, default=1)),
            ("channel", c.cut.channel),
        )
        if n > 1
    ]
    text = f"{c.cut.parts} shards: {'; '.join(explained[u] for u in used)}"
    whole = next((a for a in considered if a.shards == 1), None)
    if whole is not None and c.prediction.seconds > 0:
        text += f"; {_time(c)}; one worker, {_time(whole)} ({whole.seconds / c.prediction.seconds:.1f} ×)"
    others = [a for a in considered if a.shards > 1]
    if c.measured and others:
        best = min(others, key=lambda a: a.seconds)
        text += f"; {best.shards} shards along {best.cut}, {_time(best)}"
    return text


def _time(of: PlannedChain | Alternative) -> str:
    """The time of a cut, and whether it was measured or predicted."""
    seconds = of.seconds if isinstance(of, Alternative) else of.prediction.seconds
    return f"{'measured' if of.measured else 'predicted'} {milliseconds(seconds)}"
