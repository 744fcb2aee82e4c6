"""How long planning takes: layers, of new shapes and cached ones, on 2 to 10,000 workers; whole networks on 8 to 256.

python bench/planning.py
python bench/planning.py --nodes  # what plans for two nodes of four workers predict, beside plans that ignore nodes
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from network_models import LIGHT

from groupconv.convolution.dtypes import types_of
from groupconv.text import human_bytes, milliseconds, table
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.planner import Planner
from groupconv_server.planner.networks.costs import Costs, Interconnect
from groupconv_server.planner.networks.plan import plan_network
from groupconv_server.planner.networks.search import search
from groupconv_server.planner.rates import Rates
from groupconv_worker.contract import Problem
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model

F32 = np.dtype("float32")
NETWORKS = "resnet50", "densenet121"
NODES = 4, 4
LATENCY = 1e-4
"""Seconds between two nodes."""


def main() -> None:
    """Print the median over the layers of the catalogue at batch 8, and CPU seconds of networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--nodes", action="store_true", help="compare plans for two nodes instead")
    arguments = parser.parse_args()
    if arguments.nodes:
        names = "network", "between nodes", "one worker", "ignoring nodes", "for two nodes", "bytes between"
        print(table([names, *(nodes_row(n, rate) for n in ("bvlc_alexnet", "resnet50") for rate in (2e9, 1.2e8))]))
        return
    rows, numbers = [("workers", "new shape", "cached shape", "most shards")], []
    problems = [(Problem(layer.geometry.with_batch(8), types_of(F32, F32)),) for layer in catalogue().values()]
    for count in (2, 8, 64, 1000, 10_000):
        workers = tuple(f"worker-{i}" for i in range(count))
        new, cached, most = [], [], 0
        for problem in problems:
            planner = Planner()
            planner.plan(problems[0], workers)  # the candidates are listed once for a number of workers
            new.append(min(seconds(Planner(), problem, workers) for _ in range(5)))
            for _ in range(count):  # every turn of the ring
                chains = planner.plan(problem, workers)
            cached.append(min(seconds(planner, problem, workers) for _ in range(50)))
            most = max(most, len(chains[0].shards))
        numbers.append({"workers": count, "new": float(np.median(new)), "cached": float(np.median(cached))})
        numbers[-1] |= {"new_max": max(new), "cached_max": max(cached)}
        rows.append(
            (
                f"{count:,}",
                f"{np.median(new) * 1e3:.2f} ms (slowest layer {max(new) * 1e3:.2f})",
                f"{np.median(cached) * 1e6:.0f} µs (slowest layer {max(cached) * 1e6:.0f})",
                str(most),
            )
        )
    print(table(rows))
    counts = 8, 64, 256
    print(table([("network", *(f"{n} workers" for n in counts)), *(network_row(n, counts) for n in NETWORKS)]))
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1))


def seconds(planner: Planner, problem: tuple[Problem, ...], workers: tuple[str, ...]) -> float:
    """One plan."""
    start = time.perf_counter()
    planner.plan(problem, workers)
    return time.perf_counter() - start


def graph_of(name: str) -> Graph:
    """A network of the onnx package."""
    model = read_model((LIGHT / f"light_{name}.onnx").read_bytes())
    return Optimized(model).canonical({info.name: info.shape for info in model.inputs})


def nodes_row(name: str, rate: float) -> tuple[str, ...]:
    """Predicted times of a network with so many bytes per second between its nodes."""
    graph, costs = graph_of(name), Costs(Rates(), between_nodes=Interconnect(rate, LATENCY))
    plan, _ = plan_network(graph, NODES, costs)
    ignoring, cuts = plan_network(graph, (sum(NODES),), costs)
    if ignoring.used != sum(NODES):
        raise SystemExit(f"{name}: a plan that ignores nodes uses {ignoring.used} workers")
    times = dict(plan.considered)[1], search(graph, NODES, costs, cuts).seconds, plan.seconds
    return name, f"{rate / 1e9} GB/s", *map(milliseconds, times), human_bytes(plan.between_nodes_bytes)


def network_row(name: str, counts: Sequence[int]) -> tuple[str, ...]:
    """CPU seconds of a network's plan, one for each number of workers."""
    graph = graph_of(name)
    row = [name]
    for count in counts:
        start = time.process_time()
        plan_network(graph, (count,), Costs(Rates()))
        row.append(f"{time.process_time() - start:.1f} CPU s")
    return tuple(row)


if __name__ == "__main__":
    main()
