"""Requests joined along the batch against the same ones alone, in one run.

    python bench/batching.py [--layer mobilenet_pw_14 ...] [--clients 32] [--executor local] [--max-batch 8]

Two servers that differ in `--max-batch` alone take turns with closed loops of `--clients` callers, which share a few
processes. Printed: medians of the turns, what runs the server made (samples and how often), and whether it found that
joining pays: per layer and shape it compares how fast samples come out joined and alone.
"""

import argparse
import os
import statistics
import threading
import time
from multiprocessing.connection import Connection

import numpy as np
from processes import Process, layer_named

CALLERS = 8
"""In a process."""


def serve(pipe: Connection, options: argparse.Namespace, most: int) -> None:
    """A server; asked for "runs" it says its runs by size, for "found" what it found."""
    from groupconv_server.config import Config
    from groupconv_server.memory.malloc import keep_pages
    from groupconv_server.server import Server

    keep_pages()
    config = Config(
        port=0,
        executor=options.executor,
        workers=options.workers,
        threads=options.threads,
        max_batch=most,
        max_delay_us=options.max_delay_us if most > 1 else 0,
    )
    with Server(config) as server:
        pipe.send(server.address)
        while (asked := pipe.recv()) is not None:
            if asked == "cpu":
                pipe.send(time.process_time())
            else:
                layer = server.layers.get(asked)
                pipe.send((server.batcher.sizes(layer.name, layer.version), server.batcher.benefits()))


def call(pipe: Connection, target: str, name: str, callers: int) -> None:
    """Callers in threads; asked for seconds it says their latencies."""
    import groupconv

    layer = groupconv.connect(target).get_layer(name)
    x = layer_named(name).arrays()[0]
    layer(x)
    pipe.send(None)
    while (seconds := pipe.recv()) is not None:
        times: list[float] = []

        def loop(end: float = time.perf_counter() + seconds, times: list[float] = times) -> None:
            while (begun := time.perf_counter()) < end:
                layer(x)
                times.append(time.perf_counter() - begun)

        threads = [threading.Thread(target=loop) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pipe.send(times)


def measure(name: str, options: argparse.Namespace) -> None:
    """One layer."""
    import groupconv

    layer = layer_named(name)
    _, w, b = layer.arrays()
    servers = {most: Process(serve, options, most) for most in (1, options.max_batch)}
    targets = {most: server.pipe.recv() for most, server in servers.items()}
    clients: dict[int, list[Process]] = {}
    for most, target in targets.items():
        with groupconv.connect(target) as client:
            client.load_layer(name, w, b, layer.spec, inputs=[layer.geometry.input_shape])
        counts = [min(CALLERS, options.clients - at) for at in range(0, options.clients, CALLERS)]
        clients[most] = [Process(call, target, name, count) for count in counts]
        for process in clients[most]:
            process.pipe.recv()
    rates: dict[int, list[float]] = {most: [] for most in servers}
    medians: dict[int, list[float]] = {most: [] for most in servers}
    for turn in range(-2, options.rounds):  # two are not counted: sizes are prepared, and what pays is found
        for most in servers:
            begun = time.perf_counter()
            for process in clients[most]:
                process.pipe.send(options.seconds)
            times = np.concatenate([process.pipe.recv() for process in clients[most]])
            if turn >= 0:
                rates[most].append(len(times) / (time.perf_counter() - begun))
                medians[most].append(float(np.median(times)) * 1e3)
    runs, benefits = servers[options.max_batch].ask(name)
    print(f"{name}, {options.executor}, {options.clients} clients, {len(os.sched_getaffinity(0))} cores")
    for most in servers:
        rate, p50 = statistics.median(rates[most]), statistics.median(medians[most])
        print(f"  max_batch {most}: {rate:6.0f} requests/s, p50 {p50:.2f} ms")
    print(f"  joined / alone: {statistics.median(rates[options.max_batch]) / statistics.median(rates[1]):.3f}")
    print(f"  runs by samples: {runs}")
    for benefit in benefits:
        print(f"  {benefit}")
    for process in [*(p for several in clients.values() for p in several), *servers.values()]:
        process.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", nargs="+", default=["mobilenet_pw_14"], help="as in bench/serving.py")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--executor", default="local", help="local or ray")
    parser.add_argument("--workers", type=int, help="as in `groupconv serve`")
    parser.add_argument("--threads", type=int, help="as in `groupconv serve`")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--max-delay-us", type=int, default=0)
    options = parser.parse_args()
    for name in options.layer:
        measure(name, options)


if __name__ == "__main__":
    main()
