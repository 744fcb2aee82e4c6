"""What several GPUs give, by the planner's arithmetic: the tables of docs/deployment.md and docs/scaling.md.

    python bench/gpus.py

The rates are those that fit the times measured on one H200 (bench/h200.py), and the coordinator's time for a shard is
a constant, so every machine prints the same. Nothing here was run on several GPUs.
"""

import math
from collections.abc import Iterator

import h200
from simulate import Load, loads, simulate
from simulation_results import Point

from groupconv_server.planner.rates import Rates

BATCH = 64
TASK = 5.6e-5
"""Seconds of the coordinator for a shard: 6 µs as bench/simulate.py measures its slices, 50 µs assumed to send it."""
LANE, NETWORK = h200.rates(**h200.LANE), h200.rates(**h200.NETWORK)
THERE = h200.rates(**h200.LANE | {"link": math.inf}, on_device=True)
CLUSTERS = (
    ("H200s on the coordinator's node", LANE, 3, {"network in": "lanes", "network out": "lanes"}),
    ("H200s on other nodes, 100 Gb/s", NETWORK, 2, {"network in": "network", "network out": "network"}),
    ("H200s, tensors already there", THERE, 4, {}),
)
"""Name, rates, how many of the loads the table has, and what the link is called there."""


def main() -> None:
    """Print both tables."""
    print("docs/deployment.md: one request at a time, and many at once, on a machine's GPUs")
    print("\n".join(deployment()))
    print("\ndocs/scaling.md: streams of requests on 1, 16 and 1,000 GPUs")
    print("\n".join(scaling()))


def deployment() -> Iterator[str]:
    """The rows of the table of docs/deployment.md."""
    for load in loads(BATCH)[:2]:
        here = [_point(load, count, LANE) for count in (1, 2, 8)]
        there = _point(load, 8, THERE)
        times = [f"{point.seconds * 1e3:.1f} ms" for point in (*here, there)]
        rates = [f"{_rate(point.between)} /s" for point in here]
        yield f"| {load.name}, one request at a time | {' | '.join(times)} |"
        yield f"| {load.name}, many at once | {' | '.join(rates)} | {_rate(there.whole)} /s uncut |"


def scaling() -> Iterator[str]:
    """The rows of H200s in the first table of docs/scaling.md."""
    for name, rates, count, names in CLUSTERS:
        for load in loads(BATCH)[:count]:
            one, some, many = (_point(load, workers, rates) for workers in (1, 16, 1000))
            cells = [f"{_rate(one.between)} /s"]
            cells += [f"{_rate(point.between)} /s ({_rate(point.whole)})" for point in (some, many)]
            busiest = many.limited.rpartition(" ")[0].rpartition(" ")[0]
            yield f"| {load.name} | {name} | {' | '.join(cells)} | {names.get(busiest, busiest)} |"


def _point(load: Load, count: int, rates: Rates) -> Point:
    return simulate(load, count, rates, TASK)


def _rate(seconds: float) -> str:
    """Answers a second, with three digits."""
    rate = float(f"{1 / seconds:.3g}")
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:#.3g}"


if __name__ == "__main__":
    main()
