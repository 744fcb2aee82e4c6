"""How far the coordinator scales: real plans, real dispatch, simulated workers on a virtual clock.

    python bench/simulate.py --plot scaling.png --json scaling.json

Plans are made by the planner and cut into tasks by the coordinator's own code; both are timed on this machine. What
happens then happens on a virtual clock: the coordinator spends its time on one shard after another, its network
interface carries one byte after another in each direction, a worker computes one shard at a time at its rates, and
results come back as they are ready. A stream of requests keeps everything busy: what counts is the time
between answers.
"""

import argparse
import heapq
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import h200
import numpy as np
from simulation_results import Point, Results, draw, report

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.steps import Step
from groupconv.pictures import save
from groupconv_server.coordinator.dispatch import dispatch
from groupconv_server.coordinator.routes import routes_of
from groupconv_server.layers.catalogue import layer_named
from groupconv_server.planner import PlannedChain, Planner, Rates, Statistics
from groupconv_worker.contract import Problem

F32 = np.dtype("float32")
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 5000, 10_000)
ALEXNET = tuple(f"alexnet_conv{i}" for i in range(1, 6))
RESNET = (
    "resnet50_stem",
    "resnet50_1x1_56",
    "resnet50_3x3_56",
    "resnet50_3x3_28",
    "resnet50_3x3_14",
    "resnet50_1x1_14",
)
CPU = Rates((5e10, 5e10, 1.25e10, 5e9, 2.5e10), memory=1e10, link=3.1e9, latency=3e-4, dispatch=5e-5)
"""A core, and a coordinator on 25 Gb/s: assumed."""
CLUSTERS = {
    "CPU cores, the coordinator on 25 Gb/s": CPU,
    "H200s on the coordinator's node": h200.rates(**h200.LANE),
    "H200s on other nodes, the coordinator on 100 Gb/s": h200.rates(**h200.NETWORK),
    "H200s, tensors already on them": h200.rates(**h200.LANE | {"link": math.inf}, on_device=True),
}
"""Rates of a worker and its link. Those of H200s are fitted to measured times (bench/h200.py)."""
MOBILENET = ("mobilenet_dw_14", "mobilenet_pw_14")


@dataclass(frozen=True)
class Load:
    """A request: chains of steps that follow each other."""

    name: str
    requests: list[tuple[Problem, ...]]


@dataclass
class Clock:
    """Virtual seconds until which each resource is taken, and for how long it was used in all."""

    workers: list[float]
    coordinator: float = 0.0
    out: float = 0.0
    back: float = 0.0
    used: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("coordinator", "network out", "network in", "workers"), 0.0)
    )


def main() -> None:
    """Simulate every load on every number of workers; print a table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000, help="workers")
    parser.add_argument("--batch", type=int, default=64, help="samples of a request to a network")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    counts = [n for n in COUNTS if n <= a.most]
    results: Results = {}
    for cluster, rates in CLUSTERS.items():
        results[cluster] = {load.name: [simulate(load, n, rates) for n in counts] for load in loads(a.batch)}
        report(cluster, results[cluster])
    if a.json:
        a.json.write_text(json.dumps(results, default=vars, indent=1))
    if a.plot:
        save(draw(results), a.plot)


def loads(batch: int) -> list[Load]:
    """AlexNet and ResNet-50 layer by layer, a MobileNet block as one request of two steps, and one enormous image."""
    image = resolve(ConvSpec(padding=1), (1, 1, 100_000, 100_000), (1, 1, 3, 3))
    return [
        Load("AlexNet", [(problem(name, batch),) for name in ALEXNET]),
        Load("ResNet-50", [(problem(name, batch),) for name in RESNET]),
        Load("MobileNet block", [tuple(problem(name, batch) for name in MOBILENET)]),
        Load("100,000² image", [(Problem(image, types_of(F32, F32)),)]),
    ]


def problem(name: str, batch: int) -> Problem:
    """A layer of the catalogue for a batch."""
    return Problem(layer_named(name).geometry.with_batch(batch), types_of(F32, F32))


def simulate(load: Load, count: int, rates: Rates, own: float | None = None) -> Point:
    """Plan a load for `count` workers and run it on a virtual clock: once alone, then as a stream.

    Args:
        load: the requests.
        count: of workers.
        rates: of each.
        own: seconds of the coordinator for a shard; None measures them here.
    """
    names = tuple(f"worker-{i}" for i in range(count))
    statistics = Statistics()
    statistics.calibrated(dict.fromkeys(names, rates))
    planner = Planner(statistics)
    planner.plan((problem("alexnet_conv1", 1),), names)  # the candidates are listed once for a number of workers
    start = time.perf_counter()
    chains = [chain for steps in load.requests for chain in planner.plan(steps, names)]
    planning = time.perf_counter() - start
    if own is None:
        own = float(np.mean([coordinator_seconds(chain) for chain in chains])) + rates.dispatch
    alone = Clock([0.0] * count)
    seconds = 0.0
    for chain in chains:
        seconds = run(chain, alone, rates, own, seconds)
    whole = [chain for steps in load.requests for chain in planner.plan(steps, names, at_most=1)]
    between, busiest = stream(chains, count, rates, own)
    return Point(
        workers=count,
        shards=max(len(chain.shards) for chain in chains),
        seconds=seconds,
        between=between,
        whole=stream(whole, count, rates, own)[0],
        coordinator=own,
        planning=planning,
        limited=busiest,
    )


def stream(chains: list[PlannedChain], count: int, rates: Rates, own: float) -> tuple[float, str]:
    """Seconds between the answers of many requests at once, and what was busiest, and for how much of the time."""
    requests = min(512, max(8, 2 * count // max(len(chain.shards) for chain in chains)))  # to keep everybody busy
    clock = Clock([0.0] * count)
    waiting = [(0.0, request, 0) for request in range(requests)]
    end = 0.0
    while waiting:  # whichever request can go on first
        ready, request, step = heapq.heappop(waiting)
        end = max(end, after := run(chains[step], clock, rates, own, ready))
        if step + 1 < len(chains):
            heapq.heappush(waiting, (after, request, step + 1))
    busy = {name: used / end for name, used in clock.used.items()}
    busy["workers"] /= count
    limit = max(busy, key=busy.__getitem__)
    return end / requests, f"{limit} {100 * busy[limit]:.0f} %"


def coordinator_seconds(chain: PlannedChain) -> float:
    """The coordinator's own time for one shard: its slices and task, on arrays that have a shape but no memory."""
    first, last = chain.chain[0], chain.chain[-1]
    x = np.broadcast_to(np.float32(0), first.geometry.input_shape)
    y = np.broadcast_to(np.float32(0), last.geometry.output_shape)
    steps = [Step(np.broadcast_to(np.float32(0), p.geometry.weight_shape)) for p in chain.chain]
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        dispatch(chain, routes_of(chain, steps), steps[-1], x, y)
        best = min(best, time.perf_counter() - start)
    return best / len(chain.shards)


def run(chain: PlannedChain, clock: Clock, rates: Rates, own: float, ready: float) -> float:
    """A chain on the virtual clock, its input being there at `ready`.

    Returns:
        When its last result is merged.
    """
    returning: list[tuple[float, int]] = []
    compute = computing(chain, rates)
    free = [(clock.workers[i], i) for i in range(len(clock.workers))]
    heapq.heapify(free)  # a stream's requests go to whoever is free first
    for plan_in, seconds, size in zip(sent(chain), compute, returned(chain), strict=True):
        clock.coordinator = max(clock.coordinator, ready) + own
        clock.out = max(clock.out, clock.coordinator) + plan_in / rates.link
        until, worker = heapq.heappop(free)
        done = max(until, clock.out + rates.latency / 2) + seconds
        clock.workers[worker] = done
        heapq.heappush(free, (done, worker))
        heapq.heappush(returning, (done + rates.latency / 2, size))
        clock.used["coordinator"] += own
        clock.used["network out"] += plan_in / rates.link
        clock.used["network in"] += size / rates.link
        clock.used["workers"] += seconds
    end = ready
    while returning:
        arrived, size = heapq.heappop(returning)
        clock.back = max(clock.back, arrived) + size / rates.link
        end = clock.back
    return end


def computing(chain: PlannedChain, rates: Rates) -> list[float]:
    """Seconds of each shard in the engine, as the rates say."""
    known: dict[int, float] = {}
    for shard in chain.shards:
        for piece in shard:
            if id(piece.problem) not in known:
                known[id(piece.problem)] = rates.compute_seconds(piece.problem)
    return [sum(known[id(piece.problem)] for piece in shard) for shard in chain.shards]


def sent(chain: PlannedChain) -> list[int]:
    """Bytes to each shard's worker."""
    return [sum(step.shards[i].bytes_in for step in chain.plans) for i in range(len(chain.shards))]


def returned(chain: PlannedChain) -> list[int]:
    """Bytes back from each shard's worker."""
    return [shard.bytes_out for shard in chain.plans[-1].shards]


if __name__ == "__main__":
    main()
