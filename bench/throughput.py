"""The first part of bench/cuts.py: throughput of two workers against one, beside that of two bare threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from layer_runs import Plan, forced, measure, plans, request, run_of
from two_threads import TwoThreads

from groupconv.convolution.steps import Step
from groupconv.text import table
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.planner import Cut
from groupconv_worker.contract import Engine, Problem
from groupconv_worker.engines import create_engine

LAYERS = ("alexnet_conv2", "resnet50_3x3_56", "mobilenet_dw_112", "unet_up2")
BATCH = 8
ONE, BARE = "one worker", "bare "
FLIGHT, FEWEST, FLIGHTS = 0.1, 12, 3
"""Of requests in flight: seconds that those of each caller would take one worker, how many at least; rounds of them."""
TRIES = 3
"""Places in memory: by how its pages fall a layer that barely fits the caches takes up to a third longer, or not."""
RATIOS = ("speedup", "bare_speedup", "in_flight_speedup", "in_flight_bare_speedup")
Run = Callable[[], object]


def throughput(
    one: Coordinator, two: Coordinator, engine: str, name: str, rounds: int, *, resident: bool
) -> dict[str, Any]:
    """Seconds of a layer on one worker, and on two under every cut in two; of its kernels alone, on bare threads.

    Ratios are the medians of the tries, each with arrays in another place.
    """
    x, steps, problem = request(name, BATCH, resident=resident)
    engines, tries, taken = [create_engine(engine, threads=1) for _ in range(2)], [], []
    with TwoThreads() as threads:
        for _ in range(TRIES):
            x = x.copy()
            bare = Bare(engines, threads, problem, steps[0], resident=resident)
            tries.append(_try(one, two, bare, x, steps, rounds // TRIES))
            taken += [x, bare.output, np.empty_like(bare.output)]  # the last where outputs have been
    for each in engines:
        each.close()
    found = {ratio: float(np.median([each[ratio] for each in tries])) for ratio in RATIOS}
    return {"layer": name, "kernels": "resident" if resident else "one-shot", **found, "tries": tries}


def _try(one: Coordinator, two: Coordinator, bare: "Bare", x: Any, steps: list[Step], rounds: int) -> dict[str, Any]:
    cuts, whole = plans(two, bare.problem), forced(one, bare.problem, Cut())
    assert whole is not None
    ours = {ONE: run_of(one, whole, x, steps)} | {cut: run_of(two, planned, x, steps) for cut, planned in cuts.items()}
    bares = {BARE + ONE: bare.whole(0, x)} | {BARE + cut: bare.halves(planned, x) for cut, planned in cuts.items()}
    runs = ours | bares
    seconds = dict(zip(runs, measure(runs, rounds).min(axis=0).tolist(), strict=True))
    flying = in_flight(one, two, bare, x, steps, seconds[ONE])
    best = min(cuts, key=seconds.__getitem__)
    return {
        "seconds": seconds,
        "best": best,
        "speedup": seconds[ONE] / seconds[best],
        "bare_speedup": seconds[BARE + ONE] / min(seconds[BARE + cut] for cut in cuts),
        "in_flight_per_second": flying,
        "in_flight_speedup": flying["two"] / flying["one"],
        "in_flight_bare_speedup": flying["bare two"] / flying["bare one"],
    }


class Bare:
    """The kernels of a layer, prepared, without anything around them.

    Args:
        engines: two, of one thread each.
        threads: that run them.
        problem: the layer.
        step: its weights.
        resident: whether they are tuned.
    """

    def __init__(
        self, engines: list[Engine], threads: TwoThreads, problem: Problem, step: Step, *, resident: bool
    ) -> None:
        self.engines, self.threads, self.problem, self.step, self.resident = engines, threads, problem, step, resident
        self.output = np.empty(problem.geometry.output_shape, problem.types.output)

    def whole(self, engine: int, x: Any, output: Any = None) -> Run:
        """All of it, on one engine."""
        kernel = self._prepared(engine, self.problem, self.step.kernel, self.step.bias)
        output = self.output if output is None else output
        return lambda: kernel.run(x, output)

    def halves(self, planned: Plan, x: Any) -> Run:
        """A cut in two, a shard on each engine."""
        works = []
        for engine, (piece,) in enumerate(planned[0].shards):
            there, into = (tuple(r.slice for r in ranges) for ranges in (piece.input, piece.output))
            weight = self.step.kernel[tuple(r.slice for r in piece.kernel)]
            bias = None if self.step.bias is None else self.step.bias[piece.output[1].slice]
            kernel = self._prepared(engine, piece.problem, weight, bias)
            works.append(lambda kernel=kernel, there=x[there], into=self.output[into]: kernel.run(there, into))
        return lambda: self.threads.run(*works)

    def _prepared(self, engine: int, problem: Problem, weight: Any, bias: Any) -> Any:
        return self.engines[engine].prepare(problem, weight, bias, resident=self.resident)


def in_flight(
    one: Coordinator, two: Coordinator, bare: Bare, x: Any, steps: list[Step], taken: float
) -> dict[str, float]:
    """Requests per second while two callers, each with arrays of its own, always have one under way.

    A turn is as long as many requests: the first comes to idle workers and is cut, the last has nobody beside it.
    """
    inputs, each = [x, x.copy()], max(FEWEST, round(FLIGHT / taken))
    works = [bare.whole(i, inputs[i], np.empty_like(bare.output)) for i in range(2)]
    with ThreadPoolExecutor(2) as callers:

        def served(coordinator: Coordinator) -> Run:
            deaf = Coordinator(coordinator.executor)
            calls = [repeated(each, lambda own=own: deaf.convolve(own, steps)) for own in inputs]
            return lambda: list(callers.map(lambda call: call(), calls))

        runs = {
            "one": served(one),
            "two": served(two),
            "bare one": repeated(each, lambda: [work() for work in works]),
            "bare two": lambda: bare.threads.run(*(repeated(each, work) for work in works)),
        }
        found = measure(runs, FLIGHTS, twice=False).min(axis=0)
    return dict(zip(runs, (2 * each / found).tolist(), strict=True))


def repeated(times: int, run: Run) -> Run:
    """Run so many times; each result is let go of, so that the next one finds its memory."""

    def runs() -> None:
        for _ in range(times):
            run()

    return runs


def report(scaling: list[dict[str, Any]], gains: dict[str, float]) -> None:
    """Print it as a table: of a layer's tries the one in the middle, and the range of each ratio."""
    rows = [["layer at batch 8", "kernels", ONE, "best cut in two", "", "× one", "bare", "in flight", "bare"]]
    for s in scaling:
        middle = sorted(s["tries"], key=lambda each: each["speedup"])[len(s["tries"]) // 2]
        taken = [f"{middle['seconds'][n] * 1e3:.2f} ms" for n in (ONE, middle["best"])]
        rows.append([s["layer"], s["kernels"], taken[0], middle["best"], taken[1]])
        for ratio in RATIOS:
            found = [each[ratio] for each in s["tries"]]
            rows[-1].append(f"{s[ratio]:.2f} × ({min(found):.2f} to {max(found):.2f})")
    print(table(rows, left=frozenset({0, 1, 3})))
    print("two bare threads: " + ", ".join(f"{gain:.2f} × {what}" for what, gain in gains.items()))
