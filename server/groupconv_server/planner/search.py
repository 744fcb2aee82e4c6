"""The cheapest cut of one chain of steps.

The model is evaluated for all candidates at once. Then the best one is cut into pieces, or the best few if workers
differ. Measurements count for more than the model: a cut that has run has its measured time, and the times of other
cuts are the model's times the mean error of the model for the cuts that have run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from groupconv.convolution.cuts import NOTHING
from groupconv.convolution.plan import Alternative, StepPlan
from groupconv.errors import InvalidArgumentError
from groupconv.text import counted
from groupconv_server.planner.candidates import along, cut_of, grids, row_of
from groupconv_server.planner.cuts import Cut, Piece, dimensions
from groupconv_server.planner.history import TRIALS, History
from groupconv_server.planner.model import Prediction, predict, screen
from groupconv_server.planner.pieces import pieces
from groupconv_server.planner.rates import Rates
from groupconv_server.planner.statistics import Chain
from groupconv_worker.contract import Problem

EXACT = 6
"""With unequal workers, so many of the best cuts are made and compared exactly."""
ALTERNATIVES = 8
"""The most alternatives in a plan."""
WORTH = 0.9
"""An untried cut replaces the best tried one if its predicted time is at most this share of the other's time."""
PROMISING = 1.5
"""An untried cut is worth a try if its time would be at most so many times the chosen one's, with the smallest error
that the model had for any cut."""


@dataclass(frozen=True, slots=True)
class PlannedChain:
    """Consecutive steps with one cut, whose shards exchange nothing between the steps.

    Attributes:
        first: position of the first step in the request.
        chain: the steps.
        cut: of all steps.
        shards: for each shard a piece of each step.
        workers: of each shard.
        plans: of the steps, for people and for answers.
        prediction: seconds of the chain and of its shards.
        of: number of workers that there were.
        history: measured times of the chain's cuts.
        promising: untried cuts that may be better, best first.
        measured: whether the chain has run under this cut, so that its time was measured.
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
    measured: bool = False

    def rotated(self, workers: Sequence[str], offset: int) -> "PlannedChain":
        """The plan on the workers from `offset` on, rotated."""
        ring = [workers[(offset + i) % len(workers)] for i in range(len(self.workers))]
        plans = tuple(
            replace(p, shards=tuple(replace(s, worker=w) for s, w in zip(p.shards, ring, strict=True)))
            for p in self.plans
        )
        return replace(self, workers=tuple(ring), plans=plans)


def cut_chain(
    chain: Chain, first: int, cut: Cut, order: Sequence[str], rates: Sequence[Rates], history: History
) -> PlannedChain | None:
    """A chain under a cut, with shards in proportion to their workers' speeds; None if the cut is impossible."""
    cut = cut._replace(space=cut.space or (1,) * chain[0].geometry.rank)
    used = rates[: cut.parts]
    alike = all(r == used[0] for r in used)
    shares = None if alike else [1 / _seconds(chain, r) for r in used]
    shards = pieces(chain, cut, shares)
    if shards is None and shares is not None:
        shards = pieces(chain, cut)
    if shards is None:
        return None
    workers = tuple(order[: len(shards)])
    return PlannedChain(first, chain, cut, shards, workers, (), predict(shards, used, len(order)), len(order), history)


def search(
    chain: Chain,
    first: int,
    order: Sequence[str],
    rates: Sequence[Rates],
    history: History,
    *,
    at_most: int,
    reordering: bool,
    kind: str = "",
) -> tuple[PlannedChain, list[Alternative]] | None:
    """The cheapest cut of a chain, and the alternatives to it.

    Args:
        chain: the steps.
        first: position of the first of them in the request.
        order: the workers, fastest first.
        rates: of each.
        history: measured times of the chain's cuts on as many workers.
        at_most: the largest number of shards.
        reordering: whether the order of sums may change, so that channels may be cut.
        kind: the name of a cut (`Cut.words`), to choose among cuts along exactly these dimensions; "" has all.

    Returns:
        None if the chain has no such cut.
    """
    rank, tried = chain[0].geometry.rank, history.tried()
    matrix = grids(rank, len(order))
    modeled = screen(chain, matrix, rates, reordering=reordering)
    if at_most < len(order):
        modeled = np.where(matrix.prod(axis=1) <= at_most, modeled, np.inf)
    rows = {cut: _row(matrix, cut, rank) for cut in tried}
    rows = {cut: row for cut, row in rows.items() if row is not None and np.isfinite(modeled[row])}
    errors = [tried[cut].seconds / float(modeled[row]) for cut, row in rows.items()] or [1.0]
    error = math.exp(sum(map(math.log, errors)) / len(errors))
    expected = modeled * error
    ranked = expected / (WORTH if rows else 1.0)  # measured cuts have the advantage
    for cut, row in rows.items():
        expected[row] = ranked[row] = tried[cut].seconds
    ranking = [*np.argsort(ranked, kind="stable")[: 4 * ALTERNATIVES], 0]  # one piece is possible if no other cut is
    wanted = ranking
    if kind:
        of_kind = along(matrix, kind, rank)
        wanted = [row for row in np.argsort(ranked, kind="stable") if of_kind[row]]
    exact = 1 if all(r == rates[0] for r in rates) else EXACT  # with unequal shares, parts are rounded to whole cells
    candidates: list[PlannedChain] = []
    others: list[Alternative] = []
    looked_at: set[int] = set()
    for row in dict.fromkeys(wanted):
        if not np.isfinite(expected[row]) or len(candidates) == exact:
            break
        cut = cut_of(matrix[row])
        planned = cut_chain(chain, first, cut, order, rates, history)
        if planned is not None:
            known = tried[cut].seconds if cut in rows else planned.prediction.seconds * error
            candidates.append(replace(planned, prediction=_scaled(planned.prediction, known), measured=cut in rows))
        looked_at.add(row)
    for row in ranking:
        if row not in looked_at and np.isfinite(expected[row]):
            cut = cut_of(matrix[row])
            others.append(Alternative(cut.words(rank), cut.parts, float(expected[row]), cut in rows))
    if not candidates:
        return None
    candidates.sort(key=lambda c: c.prediction.seconds * (1 if c.cut in rows or not rows else 1 / WORTH))
    chosen = candidates[0]
    compared = [Alternative(c.cut.words(rank), c.cut.parts, c.prediction.seconds, c.measured) for c in candidates[1:]]
    alternatives = sorted([*compared, *others], key=lambda a: a.seconds)
    limit = PROMISING * chosen.prediction.seconds
    # one cut that turned out slow says little about untried ones
    hoped = modeled * min(errors)
    cuts = [cut_of(matrix[row]) for row in ranking if min(expected[row], hoped[row]) <= limit]
    known_well = {cut for cut, t in tried.items() if t.times >= TRIALS} | {chosen.cut}
    promising = tuple(dict.fromkeys(cut for cut in cuts if cut not in known_well))[:ALTERNATIVES]
    whole = Alternative(NOTHING, 1, float(expected[0]), 0 in rows.values())
    return replace(chosen, promising=promising), _distinct(alternatives, whole, chosen)


def refusal(
    problem: Problem, step: int, kind: str, rates: Sequence[Rates], *, reordering: bool
) -> InvalidArgumentError:
    """The error for a step that cannot be cut as the caller requested.

    Args:
        problem: of the step.
        step: its position in the request.
        kind: the name of the cut that was requested.
        rates: of the workers.
        reordering: as of `search`.
    """
    if "channel" in kind and not reordering:
        return InvalidArgumentError("cut", "allow_reordering with a cut along channel, which sums in parts", kind)
    rank = problem.geometry.rank
    matrix = grids(rank, len(rates))
    possible = np.isfinite(screen((problem,), matrix, rates, reordering=reordering))
    names = [name for name in (NOTHING, *dimensions(rank)) if possible[along(matrix, name, rank)].any()]
    listed = ", ".join(names) + " (or several with × between them)" * (len(names) > 2)
    return InvalidArgumentError("cut", f"for step {step} on {counted(len(rates), 'worker')}: {listed}", kind)


def _scaled(prediction: Prediction, seconds: float) -> Prediction:
    """A prediction scaled to another total."""
    factor = seconds / prediction.seconds
    return Prediction(seconds, [tuple(s * factor for s in steps) for steps in prediction.compute])


def _seconds(chain: Chain, rates: Rates) -> float:
    return sum(rates.compute_seconds(p) for p in chain)


def _row(matrix: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", cut: Cut, rank: int) -> int | None:
    rows = np.flatnonzero((matrix == row_of(cut, rank)).all(axis=1))
    return int(rows[0]) if len(rows) else None


def _distinct(alternatives: Sequence[Alternative], whole: Alternative, chosen: PlannedChain) -> list[Alternative]:
    """The best alternatives, one for each kind of cut, and always the one without a cut."""
    seen = {(chosen.cut.words(chosen.chain[0].geometry.rank), chosen.cut.parts)}
    distinct: list[Alternative] = []
    for a in alternatives:
        if (a.cut, a.shards) not in seen and len(distinct) < ALTERNATIVES - 1:
            seen.add((a.cut, a.shards))
            distinct.append(a)
    if (NOTHING, 1) not in seen and math.isfinite(whole.seconds):
        distinct.append(whole)
    return distinct
