"""Networks in flight: two workers of one process beside two bare processes of one worker each, in turns.

All workers have one thread, and each caller sends its next call once it has the answer to the one before. Nothing is
between a caller and the executor: no socket, no message. A ratio of 1 means that two workers in one process disturb
each other no more than two processes do. They are measured once each has chosen between its program and its session,
for which nothing else may have the cores.

    python bench/in_flight.py
    python bench/in_flight.py --network resnet50 --seconds 3 --rounds 7
"""

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from exchange import NETWORKS, call_of
from processes import Process

PATIENCE = 120.0
"""Seconds in which a process has to choose."""
PAUSE = 0.3
"""Seconds between two calls meanwhile."""


def answer(pipe: Connection, name: str, workers: int) -> None:
    """An executor and as many callers as it has workers: sends the calls a second of all, and who answered them."""
    from groupconv_server.executors import create_executor
    from groupconv_worker.job import Job

    executor = create_executor("local", workers=workers, threads=1)
    model, call = call_of(name)

    def calls(until: float) -> tuple[int, str]:
        made, algorithm = 0, ""
        while not made or time.monotonic() < until:
            ran = executor.run_network(call, model, Job())[1]
            made, algorithm = made + 1, ran.algorithm if ran.settled else ""
        return made, algorithm

    with ThreadPoolExecutor(workers) as callers:
        while (seconds := pipe.recv()) is not None:
            start = time.monotonic()
            found = list(callers.map(calls, [start + seconds] * workers))
            rate = sum(made for made, _ in found) / (time.monotonic() - start)
            pipe.send((rate, {algorithm for _, algorithm in found}))
    executor.close()


def settled(process: Process) -> str:
    """Call now and then, which leaves cores to what compiles, until all workers have chosen the same: who answers."""
    until = time.monotonic() + PATIENCE
    while True:
        time.sleep(PAUSE)
        _, algorithms = process.ask(0.0)
        if len(algorithms) == 1 and "" not in algorithms:
            return str(*algorithms)
        if time.monotonic() > until:
            raise TimeoutError(f"workers have not chosen the same ({algorithms}): something disturbs the measurement")


def together(processes: list[Process], seconds: float) -> float:
    """Calls a second of processes that run at the same time."""
    for process in processes:
        process.pipe.send(seconds)
    return float(sum(process.pipe.recv()[0] for process in processes))


def main() -> None:
    """Measure the networks that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{'network':10}{'two workers':>13}{'two processes':>15}{'ratio':>8}  by")
    for name in [options.network] if options.network else NETWORKS:
        one, bare = [Process(answer, name, 2)], [Process(answer, name, 1) for _ in range(2)]
        answering = {settled(process) for process in (*one, *bare)}
        rounds = [(together(one, options.seconds), together(bare, options.seconds)) for _ in range(options.rounds)]
        ratio = statistics.median(a / b for a, b in rounds)
        a, b = (statistics.median(rates) for rates in zip(*rounds, strict=True))
        print(f"{name:10}{a:11.1f}/s{b:13.1f}/s{ratio:8.2f}  {', '.join(answering)}", flush=True)
        for process in (*one, *bare):
            process.close()


if __name__ == "__main__":
    main()
