"""The cheapest cut of one chain of steps.

The model is evaluated for every candidate at once; the best is made piece by piece, or the best few where workers
differ and shares are uneven. What was measured counts for more than what is modelled: a cut that was run is known by
its time, and the others are modelled times how far the model was off for the ones that were.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from groupconv.convolution.plan import Alternative, StepPlan
from groupconv_server.planner.candidates import cut_of, grids, row_of
from groupconv_server.planner.cuts import Cut, Piece, pieces
from groupconv_server.planner.model import Prediction, predict, screen
from groupconv_server.planner.rates import Rates
from groupconv_server.planner.statistics import TRIALS, Chain, History

EXACT = 6
"""Of workers that differ, so many of the best cuts are made to compare them exactly."""
ALTERNATIVES = 8
"""Other cuts told of in a plan."""
WORTH = 0.9
"""A cut not tried yet replaces the best one tried if it is predicted to take at most this part of its time."""
PROMISING = 1.5
"""A cut might be better if it would take at most so many times the chosen one's time, were the model as far off for it
as for the cut for which that was most to its advantage."""


@dataclass(frozen=True, slots=True)
class PlannedChain:
    """Consecutive steps that run without meeting, cut and given to workers.

    Attributes:
        first: position of the first step in the request.
        chain: the whole steps. cut: of all of them.
        shards: for each shard a piece of every step. workers: the worker of each.
        plans: of the steps, for people and for the wire.
        prediction: seconds of the chain and of its shards.
        of: workers there were.
        history: what running it has taught.
        promising: cuts whose time is not known from running and that might be better, best first.
    """

    first: int
    chain: Chain
    cut: Cut
    shards: list[tuple[Piece, ...]]
    workers: tuple[str, ...]
    plans: tuple[StepPlan, ...]
    prediction: Prediction
    of: int
    history: History
    promising: tuple[Cut, ...] = ()

    def turned(self, workers: Sequence[str], offset: int) -> "PlannedChain":
        """The same plan on the workers from `offset` on, in a ring."""
        ring = [workers[(offset + i) % len(workers)] for i in range(len(self.workers))]
        plans = tuple(
            replace(p, shards=tuple(replace(s, worker=w) for s, w in zip(p.shards, ring, strict=True)))
            for p in self.plans
        )
        return replace(self, workers=tuple(ring), plans=plans)


def cut_chain(
    chain: Chain, first: int, cut: Cut, order: Sequence[str], rates: Sequence[Rates], history: History
) -> PlannedChain | None:
    """The chain under a cut, shards as large as their workers are fast; None where it cannot be cut so."""
    cut = cut._replace(space=cut.space or (1,) * chain[0].geometry.rank)
    used = rates[: cut.parts]
    alike = all(r == used[0] for r in used)
    shares = None if alike else [1 / _seconds(chain, r) for r in used]
    made = pieces(chain, cut, shares)
    if made is None and shares is not None:
        made = pieces(chain, cut)
    if made is None:
        return None
    workers = tuple(order[: len(made)])
    return PlannedChain(first, chain, cut, made, workers, (), predict(made, used, len(order)), len(order), history)


def search(
    chain: Chain,
    first: int,
    order: Sequence[str],
    rates: Sequence[Rates],
    history: History,
    *,
    at_most: int,
    reordering: bool,
) -> tuple[PlannedChain, list[Alternative]] | None:
    """The cheapest cut of one chain, and the next ones.

    Args:
        chain: the steps.
        first: position of the first of them in the request.
        order: the workers, fastest first.
        rates: of each.
        history: of the chain on as many workers: the cuts that were run.
        at_most: shards.
        reordering: whether sums may be cut.

    Returns:
        None where the chain has no cut, not even into one piece.
    """
    rank, tried = chain[0].geometry.rank, history.tried()
    matrix = grids(rank, len(order))
    modelled = screen(chain, matrix, rates, reordering=reordering)
    if at_most < len(order):
        modelled = np.where(matrix.prod(axis=1) <= at_most, modelled, np.inf)
    rows = {cut: _row(matrix, cut, rank) for cut in tried}
    rows = {cut: row for cut, row in rows.items() if row is not None and np.isfinite(modelled[row])}
    errors = [tried[cut].seconds / float(modelled[row]) for cut, row in rows.items()] or [1.0]
    error = math.exp(sum(map(math.log, errors)) / len(errors))
    expected = modelled * error
    ranked = expected / (WORTH if rows else 1.0)  # what is known has the advantage
    for cut, row in rows.items():
        expected[row] = ranked[row] = tried[cut].seconds
    ranking = np.argsort(ranked, kind="stable")[: 4 * ALTERNATIVES]
    exact = 1 if all(r == rates[0] for r in rates) else EXACT  # parts are whole cells: unequal shares need a look
    candidates: list[PlannedChain] = []
    others: list[Alternative] = []
    for row in dict.fromkeys([*ranking, 0]):  # the whole can be made where none of the best can
        if not np.isfinite(expected[row]):
            break
        cut = cut_of(matrix[row])
        made = cut_chain(chain, first, cut, order, rates, history) if len(candidates) < exact else None
        if made is not None:
            known = tried[cut].seconds if cut in rows else made.prediction.seconds * error
            candidates.append(replace(made, prediction=_scaled(made.prediction, known)))
        elif len(candidates) >= exact:
            others.append(Alternative(cut.words(rank), cut.parts, float(expected[row])))
    if not candidates:
        return None
    candidates.sort(key=lambda c: c.prediction.seconds * (1 if c.cut in rows or not rows else 1 / WORTH))
    chosen = candidates[0]
    looked = [Alternative(c.cut.words(rank), c.cut.parts, c.prediction.seconds) for c in candidates[1:]]
    alternatives = sorted([*looked, *others], key=lambda a: a.seconds)
    limit = PROMISING * chosen.prediction.seconds
    # one cut that turned out badly is no reason to think badly of those that nobody tried
    hoped = modelled * min(errors)
    cuts = [cut_of(matrix[row]) for row in [*ranking, 0] if min(expected[row], hoped[row]) <= limit]
    known_well = {cut for cut, t in tried.items() if t.times >= TRIALS} | {chosen.cut}
    promising = tuple(dict.fromkeys(cut for cut in cuts if cut not in known_well))[:ALTERNATIVES]
    return replace(chosen, promising=promising), _distinct(alternatives, float(expected[0]), chosen)


def _scaled(prediction: Prediction, seconds: float) -> Prediction:
    """The prediction with another total, its parts in proportion."""
    factor = seconds / prediction.seconds
    return Prediction(seconds, [tuple(s * factor for s in steps) for steps in prediction.compute])


def _seconds(chain: Chain, rates: Rates) -> float:
    return sum(rates.compute_seconds(p) for p in chain)


def _row(matrix: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", cut: Cut, rank: int) -> int | None:
    found = np.flatnonzero((matrix == row_of(cut, rank)).all(axis=1))
    return int(found[0]) if len(found) else None


def _distinct(alternatives: Sequence[Alternative], whole: float, chosen: PlannedChain) -> list[Alternative]:
    """The best few, one for each way to cut, and always "do not split"."""
    seen = {(chosen.cut.words(chosen.chain[0].geometry.rank), chosen.cut.parts)}
    kept: list[Alternative] = []
    for a in alternatives:
        if (a.cut, a.shards) not in seen and len(kept) < ALTERNATIVES - 1:
            seen.add((a.cut, a.shards))
            kept.append(a)
    if ("nothing", 1) not in seen and math.isfinite(whole):
        kept.append(Alternative("nothing", 1, whole))
    return kept
