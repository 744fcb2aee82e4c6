"""What memory, descriptors and threads a server and its client hold after many requests.

    python bench/soak.py [--requests 100000] [--layer small] [--processes 2] [--shared-memory] [--json FILE]

The server is `groupconv serve`, the client a process of its own. It connects anew for each tenth of the requests, with
four connections for each process of the server. The first tenth is warm-up. After each tenth, memory (pages that
processes share count once), open descriptors and threads of all processes of the server are printed, and those of the
client; in the end, the last over the first.
"""

import argparse
import json
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from processes import Process, layer_named, served

POINTS = 10
CONNECTIONS = 4
"""Of the client, for each process of the server: some come to each of them."""
HELD = ("MiB", "descriptors", "threads")


def held(pid: int) -> dict[str, float]:
    """What a process and its descendants hold, by the names of `HELD`."""
    first = psutil.Process(pid)
    total = dict.fromkeys(HELD, 0.0)
    for one in (first, *first.children(recursive=True)):
        found = one.memory_full_info().pss / 2**20, one.num_fds(), one.num_threads()
        for name, more in zip(HELD, found, strict=True):
            total[name] += more
    return total


def call(pipe: Connection, target: str, name: str, shared: bool, connections: int) -> None:
    """The client; asked for a number of requests it makes them, and says what it holds."""
    import groupconv

    given = layer_named(name).arrays()[0]
    while (count := pipe.recv()) is not None:
        with groupconv.connect(target, shared_memory=shared, connections=connections) as client:
            layer = client.get_layer(name)
            for _ in range(count):
                layer(given)
            pipe.send(held(psutil.Process().pid))
            pipe.recv()
        pipe.send(None)


def main() -> None:
    """The command."""
    import groupconv

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--layer", default="small", help="as in bench/serving.py")
    parser.add_argument("--processes", type=int, default=1, help="of the server")
    parser.add_argument("--shared-memory", action="store_true")
    parser.add_argument("--max-batch", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all of it here")
    options = parser.parse_args()
    more = ["--max-batch", str(options.max_batch), *(["--allow-shared-memory"] if options.shared_memory else [])]
    with served(options.processes, *more) as server:
        layer = layer_named(options.layer)
        _, w, b = layer.arrays()
        with groupconv.connect(server.address) as client:
            client.load_layer(options.layer, w, b, layer.spec, inputs=[layer.geometry.input_shape])
        caller = Process(call, server.address, options.layer, options.shared_memory, CONNECTIONS * options.processes)
        begun = time.perf_counter()
        rows = []
        for _ in range(POINTS + 1):  # the first is the warm-up
            row = {"client": caller.ask(options.requests // POINTS), "server": held(server.pid)}
            caller.ask("disconnect")
            rows.append(row)
            print("; ".join(f"{side}: {_shown(values)}" for side, values in row.items()), flush=True)
        seconds = time.perf_counter() - begun
        caller.close()
    growth = {side: {name: rows[-1][side][name] / rows[0][side][name] for name in HELD} for side in rows[0]}
    print(f"{options.requests} requests after the warm-up, {seconds:.0f} s in all")
    for side, factors in growth.items():
        print(f"{side}: " + ", ".join(f"{name} × {factor:.4f}" for name, factor in factors.items()))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "growth": growth}, indent=2))


def _shown(values: dict[str, float]) -> str:
    return ", ".join(
        f"{value:.1f} {name}" if name == "MiB" else f"{value:.0f} {name}" for name, value in values.items()
    )


if __name__ == "__main__":
    main()
