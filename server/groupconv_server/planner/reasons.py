"""Why a plan is as it is, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from groupconv.convolution import cost
from groupconv.convolution.plan import Alternative
from groupconv.text import milliseconds

if TYPE_CHECKING:
    from groupconv_server.planner.search import PlannedChain


def first(c: PlannedChain, before: PlannedChain | None, considered: Sequence[Alternative], workers: int) -> str:
    """Why the first step of a chain is cut as it is, and if it is not the request's first, why steps meet before it."""
    text = _met(c, before) if before is not None else ""
    if c.cut.parts == 1:
        return text + _whole(c, considered, workers)
    return text + _split(c, considered)


def joined(c: PlannedChain, i: int) -> str:
    """Why a step of a chain does not meet the one before."""
    text = f"each shard goes on from its own part of step {c.first + i - 1}, nothing meets in between"
    if c.cut.group > 1:
        text += f" ({c.cut.group} towers of the {c.chain[i].geometry.groups} groups)"
    whole = cost.multiply_adds(c.chain[i - 1].geometry)
    twice = sum(cost.multiply_adds(s[i - 1].problem.geometry) for s in c.shards) - whole
    if twice > 0:
        text += f"; the halos between them repeat {100 * twice / whole:.1f} % of that step"
    return text


def _met(c: PlannedChain, before: PlannedChain) -> str:
    """What keeps a chain from going on where the one before ended."""
    g, last = c.chain[0].geometry, before.chain[-1].geometry
    step = c.first - 1
    if before.cut.group > 1 and g.groups != last.groups:
        return (
            f"regrouped: step {step} has g={last.groups}, this one g={g.groups}, so its results meet and are cut anew; "
        )
    if before.cut == c.cut and c.cut.parts == 1:
        return ""
    return f"results of step {step} meet and are cut anew: cheaper than halos or cuts that both steps share; "


def _whole(c: PlannedChain, considered: Sequence[Alternative], workers: int) -> str:
    if workers == 1:
        return "one worker runs all of it"
    if not considered:
        return "it cannot be cut"
    best = min(considered, key=lambda a: a.seconds)
    return (
        f"not split: one worker takes {milliseconds(c.prediction.seconds)}, "
        f"{best.shards} shards along {best.cut} would take {milliseconds(best.seconds)}"
    )


def _split(c: PlannedChain, considered: Sequence[Alternative]) -> str:
    g = c.chain[0].geometry
    whats = {
        "group": f"{g.groups} groups need nothing of each other",
        "batch": f"{g.batch} samples need nothing of each other",
        "filter": f"{c.chain[-1].geometry.out_channels} filters over the same input",
        "space": "tiles with their halos",
        "channel": "partial sums over input channels, added at the end (the caller lets sums be reordered)",
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
    text = f"{c.cut.parts} shards: {'; '.join(whats[u] for u in used)}"
    whole = next((a for a in considered if a.shards == 1), None)
    if whole is not None and c.prediction.seconds > 0:
        this, one = c.prediction.seconds, whole.seconds
        text += f"; {milliseconds(this)} where one worker takes {milliseconds(one)} ({one / this:.1f} ×)"
    return text
