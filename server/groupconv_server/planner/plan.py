"""The plan of a request on the present workers: the cheapest way to join its steps, each under its cheapest cut."""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import FIFOCache

from groupconv.convolution.plan import Alternative, Plan, StepPlan
from groupconv_server.planner.cuts import Cut
from groupconv_server.planner.describe import described
from groupconv_server.planner.history import History
from groupconv_server.planner.rates import Rates
from groupconv_server.planner.search import PlannedChain, cut_chain, refusal, search
from groupconv_server.planner.statistics import Chain, Statistics
from groupconv_worker.contract import Problem

CACHED = 4096
"""Steps whose plans are kept; the oldest plans leave."""
LONGEST_CHAIN = 8
"""Steps that may run without an exchange between workers."""
CURIOUS = 8
"""Runs of a chain after which a cut that might be better is tried, to measure its time."""
DOUBTS = frozenset(64 * 2**n for n in range(30))
"""Runs of a chain after which the times of its other cuts are forgotten: the machine may have been busy."""
ALIKE = 1.1
"""Workers whose speeds differ by less take turns at requests that need only some of them."""


@dataclass(slots=True)
class KnownPlan:
    """The plan of a request and what it rests on.

    Attributes:
        chains: of the plan, beginning with the first worker.
        version: of the statistics.
        rests_on: the histories of its chains, with their `changes`.
        most: workers that it takes at once.
        rotations: the plan by the position of the worker that it begins with.
    """

    chains: tuple[PlannedChain, ...]
    version: int
    rests_on: tuple[tuple[History, int], ...]
    most: int
    rotations: dict[int, tuple[PlannedChain, ...]]


class Planner:
    """Plans requests, and remembers plans until something that they rest on changes.

    A plan takes 0.6 to 1 ms to make (bench/planning.py), as much as many convolutions. Compiled calls keep theirs; the
    planner keeps those of requests that bring their weights.

    Args:
        statistics: rates of the workers and what was learned from running.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> from groupconv_worker.contract import Problem
        >>> g = resolve(ConvSpec(groups=2, padding=2), (1, 96, 27, 27), (256, 48, 5, 5))
        >>> f32 = np.dtype("float32")
        >>> (chain,) = Planner(Statistics()).plan((Problem(g, types_of(f32, f32)),), ("w0", "w1"))
        >>> chain.plans[0].cut, [(s.worker, str(s.output[1])) for s in chain.plans[0].shards]
        ('group', [('w0', '0:128'), ('w1', '128:256')])
    """

    def __init__(self, statistics: Statistics | None = None) -> None:
        self.statistics = statistics or Statistics()
        self._lock = threading.Lock()
        self._plans: FIFOCache[object, KnownPlan] = FIFOCache(CACHED, getsizeof=_steps)
        self._turn = itertools.count()

    def plan(
        self,
        problems: Chain,
        workers: tuple[str, ...],
        *,
        reordering: bool = False,
        at_most: int | None = None,
        cut: str = "",
    ) -> tuple[PlannedChain, ...]:
        """The cheapest way found to run `problems` one after another.

        Args:
            problems: the steps, each on the output of the one before.
            workers: ids, at least one.
            reordering: whether input channels may be cut, which reorders sums.
            at_most: shards of any step; None is as many as there are workers. What was not measured is not cut.
            cut: that the caller requested, by its name: the cheapest cut along these dimensions is chosen, on as many
                workers as there are; "" chooses among all cuts.

        Raises:
            InvalidArgumentError: a step cannot be cut as requested.
        """
        known = self.known(problems, workers, reordering=reordering, at_most=at_most, cut=cut)
        return self.rotated(known, workers)

    def known(
        self,
        problems: Chain,
        workers: tuple[str, ...],
        *,
        reordering: bool = False,
        at_most: int | None = None,
        cut: str = "",
    ) -> KnownPlan:
        """The plan with what it rests on, as kept or made anew; arguments as of `plan`."""
        if cut:
            at_most = len(workers)
        else:
            at_most = min(at_most or len(workers), len(workers)) if self.statistics.can_judge(problems) else 1
        key = (problems, workers, reordering, at_most, cut)
        with self._lock:
            known = self._plans.get(key)
        if known is None or not self.is_current(known):
            version = self.statistics.version
            chains = self._make(problems, workers, at_most, reordering=reordering, kind=cut)
            rests_on = tuple((c.history, c.history.changes) for c in chains)
            known = KnownPlan(chains, version, rests_on, max(len(c.workers) for c in chains), {0: chains})
            with self._lock:
                self._plans[key] = known
        return known

    def is_current(self, plan: KnownPlan) -> bool:
        """Whether nothing has changed that a plan rests on."""
        return plan.version == self.statistics.version and all(h.changes == seen for h, seen in plan.rests_on)

    def rotated(self, plan: KnownPlan, workers: tuple[str, ...]) -> tuple[PlannedChain, ...]:
        """The chains of a plan for these workers; small requests begin with another worker each."""
        if plan.most == len(workers):
            return plan.chains
        offset = next(self._turn) % (len(workers) // plan.most) * plan.most
        return plan.rotations.get(offset) or self._rotate(plan, workers, offset)

    def explore(self, chains: tuple[PlannedChain, ...], workers: tuple[str, ...]) -> tuple[PlannedChain, ...]:
        """The plan to run now: as given, or sometimes with a cut whose time should be measured."""
        tried = {c.first: other for c in chains if (other := self._curious(c, workers)) is not None}
        if not tried:
            return chains
        return described([tried.get(c.first, c) for c in chains], {}, len(workers), frozenset(tried))

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
            chain = problems[first : first + length]
            planned = cut_chain(chain, first, cut, order, rates, self.statistics.history(chain, len(order)))
            if planned is None:
                return None
            chains.append(planned)
            first += length
        return described(chains, {}, len(workers))

    def _curious(self, c: PlannedChain, workers: tuple[str, ...]) -> PlannedChain | None:
        """The chain under another cut whose time should be measured; None to run it as planned."""
        runs = next(c.history.runs)
        if runs in DOUBTS:
            c.history.doubt(c.cut)
            return None
        cut = c.history.next_trial(c.promising if runs % CURIOUS == 0 else ())
        return None if cut in (None, c.cut) else cut_chain(c.chain, c.first, cut, *self._by_speed(workers), c.history)

    def _make(
        self, problems: Chain, workers: tuple[str, ...], at_most: int, *, reordering: bool, kind: str
    ) -> tuple[PlannedChain, ...]:
        """The cheapest way to join neighboring steps into chains, by dynamic programming over prefixes of the steps."""
        order, rates = self._by_speed(workers)
        searched: dict[tuple[int, int], tuple[PlannedChain, list[Alternative]]] = {}
        best: list[tuple[float, list[PlannedChain]]] = [(0.0, [])]
        for stop in range(1, len(problems) + 1):
            options = []
            for start in range(max(0, stop - LONGEST_CHAIN), stop):
                chain = problems[start:stop]
                history = self.statistics.history(chain, len(order))
                best_cut = search(
                    chain, start, order, rates, history, at_most=at_most, reordering=reordering, kind=kind
                )
                if best_cut is not None:
                    searched[start, stop] = best_cut
                    seconds, chains = best[start]
                    options.append((seconds + best_cut[0].prediction.seconds, [*chains, best_cut[0]]))
            if not options:
                raise refusal(problems[stop - 1], stop - 1, kind, rates, reordering=reordering)
            best.append(min(options, key=lambda option: option[0]))
        chains = best[-1][1]
        considered = {c.first: searched[c.first, c.first + len(c.chain)][1] for c in chains}
        for c in chains:
            if len(c.chain) > 1:
                alone = [searched[i, i + 1][0] for i in range(c.first, c.first + len(c.chain))]
                apart = Alternative(
                    "each step apart", max(a.cut.parts for a in alone), sum(a.prediction.seconds for a in alone)
                )
                considered[c.first] = sorted([*considered[c.first], apart], key=lambda a: a.seconds)
        return described(chains, considered, len(workers), requested=bool(kind))

    def _by_speed(self, workers: Sequence[str]) -> tuple[list[str], list[Rates]]:
        """The workers, fastest first, and their rates."""
        rates = {w: self.statistics.rates(w) for w in workers}
        order = sorted(workers, key=lambda w: -rates[w].multiply_adds[0])
        return order, [rates[w] for w in order]

    def _rotate(self, plan: KnownPlan, workers: tuple[str, ...], offset: int) -> tuple[PlannedChain, ...]:
        """A plan that begins with another worker, where all are alike."""
        order, rates = self._by_speed(workers)
        chains = plan.chains
        if rates[0].multiply_adds[0] <= ALIKE * rates[-1].multiply_adds[0]:
            chains = tuple(c.rotated(order, offset) for c in chains)
        plan.rotations[offset] = chains
        return chains


def _steps(plan: KnownPlan) -> int:
    return sum(len(chain.chain) for chain in plan.chains)


def request_plan(chains: Sequence[PlannedChain]) -> Plan:
    """The plan of all steps, as clients get it."""
    return Plan(tuple(p for c in chains for p in c.plans))


def empty_plan(problems: Sequence[Problem]) -> Plan:
    """The plan for a batch of no samples: no shard of any step."""
    return Plan(
        tuple(
            StepPlan(
                variant=p.geometry.variant(),
                input_shape=p.geometry.input_shape,
                kernel_shape=p.geometry.weight_shape,
                output_shape=p.geometry.output_shape,
                groups=p.geometry.groups,
                cut="none",
                reason="the batch is empty",
                shards=(),
            )
            for p in problems
        )
    )
