"""Calls of a network through an executor: cut over two workers of one thread beside one of them, in turns.

Beside what bench/exchange.py measures, a call waits for both workers, and with Ray its arrays travel through Ray.

    python bench/cut_calls.py --network alexnet --executor local --executor ray
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
from exchange import NETWORKS, call_of
from in_flight import PATIENCE, PAUSE

from groupconv_server.executors import create_executor
from groupconv_server.networks.cuts import plan_cuts
from groupconv_server.planner.networks.costs import Costs
from groupconv_server.planner.rates import Rates
from groupconv_worker.job import Job


def measure(name: str, executor_name: str, cut: str, rounds: int) -> None:
    """Print a line of the table."""
    model, whole = call_of(name)
    shapes = {x: array.shape for x, array in whole.inputs.items()}
    executor = create_executor(executor_name, workers=2, threads=1)

    def seconds(along: str) -> tuple[float, Any]:
        call = replace(
            whole, cut=along, planner=lambda kept, nodes: plan_cuts(model, shapes, nodes, 1, Costs(Rates()), kept)[1]
        )
        start = time.perf_counter()
        _, ran = executor.run_network(call, model, Job())
        return time.perf_counter() - start, ran

    try:
        until = time.monotonic() + PATIENCE
        while not (ran := seconds("nothing")[1]).settled and time.monotonic() < until:
            time.sleep(PAUSE)
        answering = seconds(cut)[1].cut
        turns = [(seconds("nothing")[0], seconds(cut)[0]) for _ in range(rounds)]
    finally:
        executor.close()
    one, two = np.min(turns, axis=0)
    print(
        f"{name:10}{executor_name:10}{answering:10}{1e3 * one:9.1f}{1e3 * two:9.1f}{one / two:8.2f}  {ran.algorithm}",
        flush=True,
    )


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--executor", choices=("local", "ray"), action="append")
    parser.add_argument("--cut", default="planned")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(f"{'network':10}{'executor':10}{'cut':10}{'one ms':>9}{'two ms':>9}{'ratio':>8}  one by")
    for name in [options.network] if options.network else NETWORKS:
        for executor in options.executor or ("local", "ray"):
            measure(name, executor, options.cut, options.rounds)


if __name__ == "__main__":
    main()
