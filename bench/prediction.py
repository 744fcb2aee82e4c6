"""The second and third part of bench/cuts.py: how well the planner knew, and whether cuts change results."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from layer_runs import TWO, forced, measure, plans, request, run_of

from groupconv.text import table
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors import create_executor
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.planner import Cut
from groupconv_server.planner.plan import DOUBTS

LEARNING = 4.0
"""Seconds a layer is run for the planner to learn from, at most."""
RUNS = min(DOUBTS) - 1
"""Of a layer for the planner to learn from: one more, and it doubts, and tries anew, what it learned of other cuts."""


def prediction(coordinator: Coordinator, name: str, rounds: int) -> dict[str, Any]:
    """What the planner expected of a layer at batch 1, chose, and got."""
    x, steps, problem = request(name, batch=1)
    workers = coordinator.executor.workers()
    cold = coordinator.planner.plan((problem,), workers)[0]
    limit = time.monotonic() + LEARNING
    for _ in range(RUNS):  # what requests teach it
        coordinator.convolve(x, steps)
        if time.monotonic() > limit:
            break
    learned = coordinator.planner.plan((problem,), workers)[0]
    whole = forced(coordinator, problem, Cut())
    cuts = ({"nothing": whole} if whole else {}) | plans(coordinator, problem)
    taken = measure({words: run_of(coordinator, p, x, steps) for words, p in cuts.items()}, rounds)
    measured = dict(zip(cuts, np.median(taken, axis=0).tolist(), strict=True))
    first, chosen = cold.cut.words(2), learned.cut.words(2)
    return {
        "layer": name,
        "cold": {"cut": first, "predicted": cold.prediction.seconds, "measured": measured[first]},
        "learned": {"cut": chosen, "predicted": learned.prediction.seconds, "measured": measured[chosen]},
        "all": measured,
        "against_best": measured[chosen] / min(measured.values()),
    }


def report(layers: Sequence[dict[str, Any]]) -> None:
    """Print it as a table."""
    rows = [
        ["layer at batch 1", "cut", "predicted cold", "measured", "cut", "predicted learned", "measured", "of best"]
    ]
    for n in layers:
        cold, learned = n["cold"], n["learned"]
        rows.append([n["layer"]])
        for guess in (cold, learned):
            rows[-1] += [guess["cut"], f"{guess['predicted'] * 1e3:.3f} ms", f"{guess['measured'] * 1e3:.3f} ms"]
        rows[-1].append(f"{n['against_best']:.2f} ×")
    print("\n" + table(rows, left=frozenset({0, 1, 4})))
    for kind in ("cold", "learned"):
        off = [abs(n[kind]["predicted"] / n[kind]["measured"] - 1) for n in layers]
        print(f"predicted {kind}: off by {100 * np.median(off):.0f} % (median of {len(off)} layers)")
    worst = max(layers, key=lambda n: n["against_best"])
    print(f"chosen against the best measured cut: at worst {worst['against_best']:.2f} × ({worst['layer']})")


def exactness(engine: str) -> None:
    """Print how many layers each cut leaves equal bit for bit, and which it does not, by how much and why."""
    executor = create_executor("local", workers=2, threads=1, engine=engine)
    coordinator = Coordinator(executor)
    rows = [("cut", "layer", "units of roundoff of the largest output", "whole", "parts")]
    equal, all_ = dict.fromkeys(TWO, 0), dict.fromkeys(TWO, 0)
    try:
        for name in catalogue():
            x, steps, problem = request(name, batch=2)
            whole = forced(coordinator, problem, Cut())
            if whole is None:
                continue
            call = coordinator.compile(x.shape, x.dtype, steps)
            want = coordinator.run_plan(whole, x, call)
            for cut in TWO:
                planned = forced(coordinator, problem, cut)
                if planned is None:
                    continue
                got = coordinator.run_plan(planned, x, call)
                off = float(np.abs(got.output - want.output).max() / np.abs(want.output).max() * 2**24)
                all_[cut] += 1
                equal[cut] += off == 0
                if off:
                    ran = [", ".join(sorted({s.algorithm for s in r.report.steps[0]})) for r in (want, got)]
                    rows.append((cut.words(2), name, f"{off:.1f}", *ran))
    finally:
        executor.close()
    print("\n".join(f"{cut.words(2)}: equal in {equal[cut]} of {all_[cut]}" for cut in TWO))
    print(table(rows, left=frozenset({0, 1, 3, 4})))
