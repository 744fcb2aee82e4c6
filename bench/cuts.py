"""What cutting gains on this machine, and how well the planner knew.

    python bench/cuts.py --json cuts.json

1. Throughput of two local workers of one thread each against one, at batch 8, for every cut of four layers, beside what
   two threads gain that only compute, and that only copy: what the machine had to give at that moment. "Work added" is
   the processor time of the leanest cut beyond that of one worker: what cutting costs, even on a machine that is busy.
   This is one request at a time, a ratio of latencies. "In flight" is the ratio of requests per second while two
   callers, each with arrays of its own, always have one under way, with one worker and with two, and the planner
   decides: then each worker has a request of its own, nobody waits for a hand-over, and twice the memory is in use.
2. For each layer of the catalogue at batch 1: predicted time before the shape was ever run and after a few runs, the
   measured time, and the time of the chosen cut against the best of the others.
3. `--exact`: are results the same? Each cut in two of each layer against the uncut one, at batch 2; nothing is timed.

Everything that is compared is measured in turn, round by round, so that a busy moment of the machine hits all alike.
The first part takes the fastest round (what the machine can do), the second the median (what a caller gets).
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.dtypes import types_of
from groupconv.requests import Step
from groupconv.text import table
from groupconv_server.catalogue import catalogue
from groupconv_server.coordinator import Coordinator
from groupconv_server.executors import create_executor
from groupconv_server.pages import keep_pages
from groupconv_server.planner import Cut, PlannedChain, Planner
from groupconv_worker.engines.base import Problem

F32 = np.dtype("float32")
LEARNING = 4.0
"""Seconds a layer is run for the planner to learn from, at most; and 64 times at most."""
THROUGHPUT = ("alexnet_conv2", "resnet50_3x3_56", "mobilenet_dw_112", "unet_up2")
SETTLE = 0.0005
"""Seconds in which helpers go to sleep: the time of a thread that runs on another core is counted only then."""
CALLERS, EACH = 2, 4
"""Of the requests in flight: callers, and requests of each in a round."""
TWO = [Cut(group=2), Cut(batch=2), Cut(filter=2), Cut(space=(2, 1)), Cut(space=(1, 2))]


def main() -> None:
    """Run both parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--engine", default="cpu")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each cut; the median counts")
    parser.add_argument("--layers", nargs="*", help="of the second part; default all of the catalogue")
    parser.add_argument("--exact", action="store_true", help="only compare results")
    arguments = parser.parse_args()
    if arguments.exact:
        exactness(arguments.engine)
        return
    keep_pages()  # as `groupconv serve` does
    executors = [create_executor("local", workers=n, threads=1, engine=arguments.engine) for n in (1, 2)]
    one, two = (Coordinator(executor) for executor in executors)
    try:
        before = machine(3 * arguments.rounds)
        scaling = [throughput(one, two, name, 3 * arguments.rounds) for name in THROUGHPUT]
        names = list(catalogue()) if arguments.layers is None else arguments.layers
        two.calibrate()
        layers = [prediction(two, name, arguments.rounds) for name in names]
    finally:
        for executor in executors:
            executor.close()
    report(scaling, before, layers)
    if arguments.json:
        arguments.json.write_text(json.dumps({"throughput": scaling, "machine": before, "layers": layers}, indent=1))


def throughput(one: Coordinator, two: Coordinator, name: str, rounds: int) -> dict[str, Any]:
    """Seconds of a layer at batch 8 on one worker, and on two under every cut in two."""
    x, steps, problem = request(name, batch=8)
    runs = {"one worker": (one, forced(one, problem, Cut()))}
    for cut in TWO:
        planned = forced(two, problem, cut)
        if planned:
            runs[cut.words(2)] = (two, planned)
    taken = measure(list(runs.values()), x, steps, rounds)
    used = processor(list(runs.values()), x, steps, rounds // 3)
    numbers = dict(zip(runs, taken.min(axis=0).tolist(), strict=True))
    busy = dict(zip(runs, used.min(axis=0).tolist(), strict=True))
    best = min((c for c in numbers if c != "one worker"), key=numbers.__getitem__)
    flying = in_flight((one, two), x, steps, rounds // 3)
    return {
        "layer": name,
        "seconds": numbers,
        "processor_seconds": busy,
        "best": best,
        "speedup": numbers["one worker"] / numbers[best],
        "in_flight_per_second": flying,
        "in_flight_speedup": flying[1] / flying[0],
        "repeated": min(p for c, p in busy.items() if c != "one worker") / busy["one worker"] - 1,
    }


def in_flight(coordinators: Sequence[Coordinator], x: Any, steps: list[Step], rounds: int) -> list[float]:
    """Requests per second of each coordinator, the fastest of the rounds, while every caller has one under way."""
    deaf = [Coordinator(coordinator.executor) for coordinator in coordinators]
    inputs, taken = [x, *(x.copy() for _ in range(CALLERS - 1))], np.empty((rounds + 1, len(deaf)))
    with ThreadPoolExecutor(CALLERS) as callers:
        for turn in taken:
            for i, coordinator in enumerate(deaf):
                start = time.perf_counter()
                list(callers.map(lambda own, c=coordinator: [c.convolve(own, steps) for _ in range(EACH)], inputs))
                turn[i] = time.perf_counter() - start
    found: list[float] = (CALLERS * EACH / taken[1:].min(axis=0)).tolist()
    return found


def prediction(coordinator: Coordinator, name: str, rounds: int) -> dict[str, Any]:
    """What the planner expected of a layer at batch 1, chose, and got."""
    x, steps, problem = request(name, batch=1)
    workers = coordinator.executor.workers()
    cold = coordinator.planner.plan((problem,), workers)[0]
    limit = time.monotonic() + LEARNING
    for _ in range(64):  # what requests teach it
        coordinator.convolve(x, steps)
        if time.monotonic() > limit:
            break
    learned = coordinator.planner.plan((problem,), workers)[0]
    cuts = {"nothing": Cut(), **{c.words(2): c for c in TWO}}
    cuts = {words: c._replace(space=c.space or (1, 1)) for words, c in cuts.items()}
    chosen = learned.cut.words(2)
    plans = {words: forced(coordinator, problem, cut) for words, cut in cuts.items()}
    plans = {words: p for words, p in plans.items() if p}
    taken = measure([(coordinator, p) for p in plans.values() if p], x, steps, rounds)
    measured = dict(zip(plans, np.median(taken, axis=0).tolist(), strict=True))
    first = cold.cut.words(2)
    return {
        "layer": name,
        "cold": {"cut": first, "predicted": cold.prediction.seconds, "measured": measured[first]},
        "learned": {"cut": chosen, "predicted": learned.prediction.seconds, "measured": measured[chosen]},
        "all": measured,
        "against_best": measured[chosen] / min(measured.values()),
    }


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
            want = coordinator.run(whole, x, steps)
            for cut in TWO:
                planned = forced(coordinator, problem, cut)
                if planned is None:
                    continue
                got = coordinator.run(planned, x, steps)
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


def request(name: str, batch: int) -> tuple[Any, list[Step], Problem]:
    """Arrays, steps and symbols of a layer."""
    layer = catalogue()[name]
    _, w, b = layer.arrays()
    problem = Problem(layer.geometry.with_batch(batch), types_of(F32, F32))
    x = np.random.default_rng(0).standard_normal(problem.geometry.input_shape, dtype=np.float32)
    return x, [Step(w, b, layer.spec)], problem


def forced(coordinator: Coordinator, problem: Problem, cut: Cut) -> tuple[PlannedChain, ...] | None:
    """The layer under one cut."""
    return Planner().forced((problem,), coordinator.executor.workers(), [(1, cut)])


def measure(
    runs: Sequence[tuple[Coordinator, tuple[PlannedChain, ...]]], x: Any, steps: list[Step], rounds: int
) -> Any:
    """Seconds (rounds, runs), all in turn; the planner does not learn from them."""
    deaf = [Coordinator(coordinator.executor) for coordinator, _ in runs]
    taken = np.empty((rounds + 2, len(runs)))
    for turn in taken:
        for i, (_, planned) in enumerate(runs):
            start = time.perf_counter()
            deaf[i].run(planned, x, steps)
            turn[i] = time.perf_counter() - start
    return taken[2:]  # the first two warm up


def processor(
    runs: Sequence[tuple[Coordinator, tuple[PlannedChain, ...]]], x: Any, steps: list[Step], rounds: int
) -> Any:
    """Processor seconds (rounds, runs), of all threads."""
    deaf = [Coordinator(coordinator.executor) for coordinator, _ in runs]
    used = np.empty((rounds, len(runs)))
    for turn in used:
        for i, (_, planned) in enumerate(runs):
            start = time.process_time()
            deaf[i].run(planned, x, steps)
            time.sleep(SETTLE)
            turn[i] = time.process_time() - start
    return used


def machine(rounds: int) -> dict[str, float]:
    """How much more two threads do than one in the same time, computing in their caches and copying in memory."""
    x, small = np.ones((8, 32, 112, 112), np.float32), np.ones((2, 100_000), np.float32)
    y, results = np.empty_like(x), np.empty_like(small)
    works: dict[str, Callable[[int], object]] = {
        "computing": lambda i: [np.sin(small[i], out=results[i]) for _ in range(20)],
        "copying": lambda i: np.copyto(y[4 * i : 4 * i + 4], x[4 * i : 4 * i + 4]),
    }
    gains = {}
    with ThreadPoolExecutor(2) as pool:
        for name, work in works.items():
            alone, together = [], []
            for _ in range(rounds):
                start = time.perf_counter()
                work(0)
                work(1)
                middle = time.perf_counter()
                list(pool.map(work, (0, 1)))
                alone.append(middle - start)
                together.append(time.perf_counter() - middle)
            gains[name] = min(alone) / min(together)
    return gains


def report(scaling: Sequence[dict[str, Any]], gains: dict[str, float], layers: Sequence[dict[str, Any]]) -> None:
    """Print both parts as tables."""
    names = ["one worker", *(c.words(2) for c in TWO)]
    rows = [["layer at batch 8", *names, "best cut", "throughput", "in flight", "work added"]]
    for s in scaling:
        cells = [f"{s['seconds'][n] * 1e3:.2f} ms" if n in s["seconds"] else "" for n in names]
        ratios = [f"{s['speedup']:.2f} ×", f"{s['in_flight_speedup']:.2f} ×"]
        rows.append([s["layer"], *cells, s["best"], *ratios, f"{100 * s['repeated']:.0f} %"])
    print(table(rows, left=frozenset({0})))
    print("two bare threads: " + ", ".join(f"{gain:.2f} × {what}" for what, gain in gains.items()))
    if not layers:
        return
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


if __name__ == "__main__":
    main()
