"""From a request's steps and the workers there are to a plan: the cheapest cut of the cheapest chains."""

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from groupconv import cost
from groupconv.plan import Alternative, Plan, Shard, StepPlan
from groupconv_server.planner import reasons
from groupconv_server.planner.candidates import cut_of, grids, row_of
from groupconv_server.planner.cuts import Cut, Piece, pieces
from groupconv_server.planner.model import Prediction, predict, screen
from groupconv_server.planner.rates import Rates
from groupconv_server.planner.statistics import STALE, Chain, Statistics

CACHED = 4096
"""Plans kept."""
LONGEST_CHAIN = 8
"""Steps that may run without meeting; longer sequences meet in between."""
ALTERNATIVES = 8
"""Other cuts told of in a plan."""
WORTH = 0.9
"""A cut not tried yet replaces the best one tried if it is predicted to take at most this part of its time."""
ALIKE = 1.1
"""Workers whose speeds differ by less take turns with requests that need only some of them."""


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
    """

    first: int
    chain: Chain
    cut: Cut
    shards: list[tuple[Piece, ...]]
    workers: tuple[str, ...]
    plans: tuple[StepPlan, ...]
    prediction: Prediction
    of: int

    def turned(self, workers: Sequence[str], offset: int) -> "PlannedChain":
        """The same plan on the workers from `offset` on, in a ring."""
        ring = [workers[(offset + i) % len(workers)] for i in range(len(self.workers))]
        plans = tuple(
            replace(p, shards=tuple(replace(s, worker=w) for s, w in zip(p.shards, ring, strict=True)))
            for p in self.plans
        )
        return replace(self, workers=tuple(ring), plans=plans)


class Planner:
    """Plans requests, and remembers plans until something that they rest on changes.

    Args:
        statistics: rates of the workers and what was learned from running.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.dtypes import types_of
        >>> from groupconv_worker.engines.base import Problem
        >>> g = resolve(ConvSpec(groups=2, padding=2), (1, 96, 27, 27), (256, 48, 5, 5))
        >>> f32 = np.dtype("float32")
        >>> (chain,) = Planner(Statistics()).plan((Problem(g, types_of(f32, f32)),), ("w0", "w1"))
        >>> chain.plans[0].cut, [(s.worker, str(s.output[1])) for s in chain.plans[0].shards]
        ('group', [('w0', '0:128'), ('w1', '128:256')])
    """

    def __init__(self, statistics: Statistics | None = None) -> None:
        self.statistics = statistics or Statistics()
        self._lock = threading.Lock()
        self._plans: OrderedDict[object, tuple[int, tuple[PlannedChain, ...]]] = OrderedDict()
        self._turn = itertools.count()

    def plan(self, problems: Chain, workers: tuple[str, ...], *, reordering: bool = False) -> tuple[PlannedChain, ...]:
        """The cheapest way found to run `problems` one after another.

        Args:
            problems: the steps, each on the output of the one before.
            workers: ids, at least one.
            reordering: whether input channels may be cut, which reorders sums.
        """
        key = (problems, workers, reordering)
        with self._lock:
            version, chains = self._plans.get(key, (-1, ()))
        if version != self.statistics.version:
            version = self.statistics.version
            chains = self._make(problems, workers, reordering=reordering)
            self._keep(key, version, chains)
        most = max(len(c.workers) for c in chains)
        if most == len(workers):
            return chains
        return self._turned(key, version, chains, workers, next(self._turn) * most % len(workers))

    def forced(
        self, problems: Chain, workers: tuple[str, ...], cuts: Sequence[tuple[int, Cut]]
    ) -> tuple[PlannedChain, ...] | None:
        """The plan with chains of given lengths under given cuts; None where one cannot be made.

        Args:
            problems: the steps.
            workers: ids, as many as the largest cut has parts, or more.
            cuts: for each chain the number of its steps and the cut.
        """
        order, rates = self._by_speed(workers)
        chains, first = [], 0
        for length, cut in cuts:
            made = self._cut(problems[first : first + length], first, cut, order, rates)
            if made is None:
                return None
            chains.append(made)
            first += length
        return _explained(chains, {}, len(workers))

    def learn(self, chain: PlannedChain, seconds: float, compute: Sequence[Sequence[float]]) -> None:
        """A chain was run, alone: its seconds from dispatch to merge, and each shard's steps' seconds in the engine."""
        tried = self.statistics.observe(chain.chain, chain.cut, chain.of, seconds)
        predicted = [sum(steps) for steps in chain.prediction.compute]
        measured = [sum(steps) for steps in compute]
        self.statistics.observe_workers(list(zip(chain.workers, predicted, measured, strict=True)))
        if tried.times == 1 or abs(math.log(tried.seconds / chain.prediction.seconds)) > STALE:
            self._forget(chain.chain)

    def _make(self, problems: Chain, workers: tuple[str, ...], *, reordering: bool) -> tuple[PlannedChain, ...]:
        """Of all ways to join neighbouring steps, the cheapest: the best plan of a prefix extended by one chain."""
        order, rates = self._by_speed(workers)
        searched: dict[tuple[int, int], tuple[PlannedChain, list[Alternative]]] = {}
        best: list[tuple[float, list[PlannedChain]]] = [(0.0, [])]
        for stop in range(1, len(problems) + 1):
            options = []
            for start in range(max(0, stop - LONGEST_CHAIN), stop):
                found = self._search(problems[start:stop], start, order, rates, reordering=reordering)
                if found is not None:
                    searched[start, stop] = found
                    seconds, chains = best[start]
                    options.append((seconds + found[0].prediction.seconds, [*chains, found[0]]))
            best.append(min(options, key=lambda option: option[0]))
        chains = best[-1][1]
        considered = {c.first: searched[c.first, c.first + len(c.chain)][1] for c in chains}
        return _explained(chains, considered, len(workers))

    def _search(
        self, chain: Chain, first: int, order: Sequence[str], rates: Sequence[Rates], *, reordering: bool
    ) -> tuple[PlannedChain, list[Alternative]] | None:
        """The cheapest cut of one chain, and the next ones."""
        rank = chain[0].geometry.rank
        matrix = grids(rank, len(order))
        modelled = screen(chain, matrix, rates, reordering=reordering)
        tried = self.statistics.tried(chain, len(order))
        rows = {cut: _row(matrix, cut, rank) for cut in tried}
        rows = {cut: row for cut, row in rows.items() if row is not None and np.isfinite(modelled[row])}
        error = 1.0
        if rows:
            error = math.exp(sum(math.log(tried[c].seconds / modelled[r]) for c, r in rows.items()) / len(rows))
        expected = modelled * error
        ranked = expected / (WORTH if rows else 1.0)  # what is known has the advantage
        for cut, row in rows.items():
            expected[row] = ranked[row] = tried[cut].seconds
        ranking = np.argsort(ranked, kind="stable")[: 8 * ALTERNATIVES]
        alternatives: list[Alternative] = []
        chosen: PlannedChain | None = None
        for row in ranking:
            if not np.isfinite(expected[row]):
                break
            cut = cut_of(matrix[row])
            if chosen is None:
                made = self._cut(chain, first, cut, order, rates)
                if made is not None:
                    known = tried[cut].seconds if cut in rows else made.prediction.seconds * error
                    chosen = replace(made, prediction=Prediction(known, made.prediction.compute))
                continue
            alternatives.append(Alternative(cut.words(rank), cut.parts, float(expected[row])))
        if chosen is None:
            return None
        return chosen, _distinct(alternatives, float(expected[0]), chosen)

    def _cut(
        self, chain: Chain, first: int, cut: Cut, order: Sequence[str], rates: Sequence[Rates]
    ) -> PlannedChain | None:
        used = rates[: cut.parts]
        alike = all(r == used[0] for r in used)
        shares = None if alike else [1 / _seconds(chain, r) for r in used]
        made = pieces(chain, cut, shares)
        if made is None and shares is not None:
            made = pieces(chain, cut)
        if made is None:
            return None
        workers = tuple(order[: len(made)])
        return PlannedChain(first, chain, cut, made, workers, (), predict(made, used, len(order)), len(order))

    def _by_speed(self, workers: Sequence[str]) -> tuple[list[str], list[Rates]]:
        """The workers, fastest first, and their rates."""
        rates = {w: self.statistics.rates(w) for w in workers}
        order = sorted(workers, key=lambda w: -rates[w].multiply_adds[0])
        return order, [rates[w] for w in order]

    def _turned(
        self, key: object, version: int, chains: tuple[PlannedChain, ...], workers: tuple[str, ...], offset: int
    ) -> tuple[PlannedChain, ...]:
        """Small requests begin with another worker each, so that they spread over workers that are alike."""
        with self._lock:
            known = self._plans.get((key, offset))
        if known is not None and known[0] == version:
            return known[1]
        order, rates = self._by_speed(workers)
        if rates[0].multiply_adds[0] > ALIKE * rates[-1].multiply_adds[0]:
            return chains
        turned = tuple(c.turned(order, offset) for c in chains)
        self._keep((key, offset), version, turned)
        return turned

    def _keep(self, key: object, version: int, chains: tuple[PlannedChain, ...]) -> None:
        with self._lock:
            self._plans[key] = (version, chains)
            while len(self._plans) > CACHED:
                self._plans.popitem(last=False)

    def _forget(self, chain: Chain) -> None:
        """Every plan that holds this chain is made anew when it is next asked for."""
        with self._lock:
            stale = [k for k, (_, chains) in self._plans.items() if any(c.chain == chain for c in chains)]
            for key in stale:
                del self._plans[key]


def request_plan(chains: Sequence[PlannedChain]) -> Plan:
    """The plan of all steps, as people and the wire see it."""
    return Plan(tuple(p for c in chains for p in c.plans))


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


def _explained(
    chains: Sequence[PlannedChain], considered: dict[int, list[Alternative]], workers: int
) -> tuple[PlannedChain, ...]:
    """Each chain with the plans of its steps in words."""
    done = []
    before: PlannedChain | None = None
    for c in chains:
        alternatives = considered.get(c.first, [])
        added = [max(steps[i] for steps in c.prediction.compute) for i in range(1, len(c.chain))]
        plans = []
        for i, problem in enumerate(c.chain):
            g = problem.geometry
            reason = reasons.joined(c, i) if i else reasons.first(c, before, alternatives, workers)
            plans.append(
                StepPlan(
                    variant=g.variant(),
                    input_shape=g.input_shape,
                    kernel_shape=g.weight_shape,
                    output_shape=g.output_shape,
                    groups=g.groups,
                    cut=c.cut.words(g.rank),
                    reason=reason,
                    shards=_shards(c, i),
                    seconds=added[i - 1] if i else c.prediction.seconds - sum(added),
                    alternatives=() if i else tuple(alternatives),
                    joined=i > 0,
                )
            )
        before = replace(c, plans=tuple(plans))
        done.append(before)
    return tuple(done)


def _shards(c: PlannedChain, i: int) -> tuple[Shard, ...]:
    """The shards of step i of a chain; only what travels counts as bytes."""
    last = len(c.chain) - 1
    numbers: dict[int, tuple[int, int, int]] = {}
    made = []
    for n, (shard, worker, compute) in enumerate(zip(c.shards, c.workers, c.prediction.compute, strict=True)):
        piece = shard[i]
        if id(piece.problem) not in numbers:
            numbers[id(piece.problem)] = _numbers(piece, first=i == 0, last=i == last)
        made.append(
            Shard(
                n,
                worker,
                piece.input,
                piece.kernel,
                piece.output,
                *numbers[id(piece.problem)],
                compute[i],
                piece.partial,
            )
        )
    return tuple(made)


def _numbers(piece: Piece, *, first: bool, last: bool) -> tuple[int, int, int]:
    """Bytes in, bytes out and multiply-adds of a piece of one step of a chain."""
    g, types = piece.problem.geometry, piece.problem.types
    bytes_in = piece.kernel_bytes + (piece.input_bytes if first else 0)
    return bytes_in, cost.bytes_out(g, types) if last else 0, cost.multiply_adds(g)
