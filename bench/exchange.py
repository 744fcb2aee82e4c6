"""Networks over two workers of one thread, beside one worker of one thread, in turns, in one process.

`together` is the least time of one worker over the least time of two. `apart` is what two idle cores would give: the
time of one worker over that of the slower part, each part running alone on what the last run has left in its zones. On
a machine that others load, only `apart` says something about the cuts.

    python bench/exchange.py
    python bench/exchange.py --network unet --cut rows --rounds 20
"""

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from network_models import LIGHT, unet

from groupconv_server.planner.networks.costs import Costs
from groupconv_server.planner.networks.plan import plan_network
from groupconv_server.planner.rates import Rates
from groupconv_worker.cpu.network.network import CompiledNetwork
from groupconv_worker.cpu.network.sharded import ShardedNetwork, cut_network
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import Model, read_model
from groupconv_worker.graph.partition.choice import CUTS, PLANNED, CutChoice
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import NetworkCall

NETWORKS: dict[str, tuple[Callable[[], bytes], dict[str, tuple[int, ...]]]] = {
    "resnet50": ((LIGHT / "light_resnet50.onnx").read_bytes, {}),
    "unet": (lambda: unet().SerializeToString(), {"x": (1, 3, 512, 512)}),
    "alexnet": ((LIGHT / "light_bvlc_alexnet.onnx").read_bytes, {}),
}
WORKERS = 2


def graph_of(name: str) -> Graph:
    """A network's graph, its weights drawn at random."""
    data, given = NETWORKS[name]
    model = read_model(data())
    shapes = given or {info.name: info.shape for info in model.inputs}
    graph = Optimized(model).canonical(shapes)
    rng = np.random.default_rng(0)
    constants = {}
    for weight, w in graph.constants.items():
        drawn = rng.standard_normal(w.shape) / math.sqrt(max(1, math.prod(w.shape[1:])))
        constants[weight] = drawn.astype(w.dtype) if w.size > 16 else w
    return replace(graph, constants=constants)


def call_of(name: str) -> tuple[Model, NetworkCall]:
    """A network and a call of it, with drawn pixels."""
    data, given = NETWORKS[name]
    model = read_model(data())
    rng = np.random.default_rng(0)
    shapes: dict[str, Any] = given or {info.name: info.shape for info in model.inputs}
    inputs = {info.name: rng.integers(0, 255, shapes[info.name]).astype(info.dtype) for info in model.inputs}
    return model, NetworkCall(name, 1, inputs, tuple(info.name for info in model.outputs), spare=2**34)


def seconds(run: Callable[[], object]) -> float:
    """Of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(name: str, cut: str, rounds: int) -> None:
    """Print a line of the table."""
    graph = graph_of(name)
    rng = np.random.default_rng(1)
    inputs = {x: rng.integers(0, 255, t.shape).astype(t.dtype) for x in graph.inputs for t in [graph.tensors[x]]}
    teams = [Team(1) for _ in range(WORKERS)]
    whole = CompiledNetwork(graph, Team(1))
    tensors = plan_network(graph, (WORKERS,), Costs(Rates()))[1] if cut == PLANNED else {}
    network: ShardedNetwork = cut_network(graph, CutChoice(cut, tensors), teams)
    with ThreadPoolExecutor(WORKERS - 1) as threads:

        def both() -> object:
            return network.run(inputs, Job(), threads, [1] * WORKERS)

        wanted, (outputs, parts) = whole.run(inputs), network.run(inputs, Job(), threads, [1] * WORKERS)
        error = max(float(np.abs(outputs[y] - want).max() / np.abs(want).max()) for y, want in wanted.items())
        one, two = zip(*[(seconds(lambda: whole.run(inputs)), seconds(both)) for _ in range(rounds)], strict=True)
        turns = [
            [seconds(lambda: whole.run(inputs)), *(network.run_alone(w, inputs) for w in range(WORKERS))]
            for _ in range(rounds)
        ]
    alone, *apart = np.min(turns, axis=0)
    sent = sum(e.nbytes for e in network.partition.exchanges)
    once = sum(x.nbytes for x in (*inputs.values(), *wanted.values()))
    brought = sum(part.coordinator_bytes for part in parts) / once
    print(
        f"{name:10}{cut:10}{1e3 * min(one):9.1f}{1e3 * min(two):9.1f}{min(one) / min(two):10.2f}"
        f"{alone / max(apart):8.2f}"
        f"{len(network.partition.exchanges):7}{sent / 2**20:8.2f}{brought:12.3f}{error:10.1e}",
        flush=True,
    )
    for team in teams:
        team.close()


def main() -> None:
    """Measure the networks that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--cut", choices=CUTS)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(
        f"{'network':10}{'cut':10}{'one ms':>9}{'two ms':>9}{'together':>10}{'apart':>8}{'boxes':>7}{'MiB':>8}"
        f"{'coordinator':>12}{'error':>10}"
    )
    for name in [options.network] if options.network else NETWORKS:
        for cut in [options.cut] if options.cut else ("rows", "channels", PLANNED):
            measure(name, cut, options.rounds)


if __name__ == "__main__":
    main()
