"""What cutting gains on this machine, and how well the planner knew.

    python bench/cuts.py --json cuts.json

1. Throughput of two local workers of one thread each against one, at batch 8, of four layers: of loaded ones
   ("resident": kernels prepared and tuned beforehand) and of kernels that come with the request ("one-shot").
   "× one" is one request at a time under the best cut in two, a ratio of latencies. "In flight" is that of requests
   per second while two callers, each with arrays of its own, always have one under way, and the planner decides: then
   each worker has a request of its own, and twice the memory is in use. Beside each stands what two bare threads reach
   with the same kernels, prepared, on the same halves (or requests), against one thread on the whole: without
   coordinator, plan, executor and fresh outputs. Each is the median of three tries with arrays in other places. What
   two threads gain that only compute, and that only copy, comes last.
2. For each layer of the catalogue at batch 1: predicted time before the shape was ever run and after a few runs, the
   measured time, and the time of the chosen cut against the best of the others.
3. `--exact`: are results the same? Each cut in two of each layer against the uncut one, at batch 2; nothing is timed.

Everything that is compared is measured in turn, round by round, so that a busy moment of the machine hits all alike;
each runs twice in its turn, and the second time counts. The first part takes the fastest round (what the machine can
do), the second the median (what a caller gets).
"""

import argparse
import json
from pathlib import Path

import prediction
import throughput
from two_threads import machine

from groupconv_server.coordinator.calibration import calibrate_workers
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors import create_executor
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.memory.malloc import keep_pages


def main() -> None:
    """Run the parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--engine", default="cpu")
    parser.add_argument("--rounds", type=int, default=15, help="of the second part; the first has three times as many")
    parser.add_argument("--throughput", nargs="*", default=throughput.LAYERS, help="layers of the first part")
    parser.add_argument("--layers", nargs="*", help="of the second part; default all of the catalogue")
    parser.add_argument("--exact", action="store_true", help="only compare results")
    arguments = parser.parse_args()
    if arguments.exact:
        prediction.exactness(arguments.engine)
        return
    keep_pages()  # as `groupconv serve` does
    executors = [create_executor("local", workers=n, threads=1, engine=arguments.engine) for n in (1, 2)]
    one, two = (Coordinator(executor) for executor in executors)
    rounds = 3 * arguments.rounds
    try:
        gains = machine(rounds)
        scaling = [
            throughput.throughput(one, two, arguments.engine, name, rounds, resident=resident)
            for resident in (True, False)
            for name in arguments.throughput
        ]
        calibrate_workers(two)
        names = list(catalogue()) if arguments.layers is None else arguments.layers
        layers = [prediction.prediction(two, name, arguments.rounds) for name in names]
    finally:
        for executor in executors:
            executor.close()
    if scaling:
        throughput.report(scaling, gains)
    if layers:
        prediction.report(layers)
    if arguments.json:
        arguments.json.write_text(json.dumps({"throughput": scaling, "machine": gains, "layers": layers}, indent=1))


if __name__ == "__main__":
    main()
