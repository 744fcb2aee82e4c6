"""What memory a server and its client hold after many requests.

    python bench/soak.py [--requests 100000] [--layer small] [--shared-memory] [--json FILE]

A server in a process of its own, one client in another. The first tenth of the requests is warm-up; then both are asked
for their resident memory ten times, evenly. Printed: each in MiB, and the last over the first.
"""

import argparse
import json
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from processes import Process, layer_call, layer_named

POINTS = 10


def serve(pipe: Connection, shared: bool, most: int) -> None:
    """The server; asked anything it says its resident bytes."""
    from groupconv_server.config import Config
    from groupconv_server.memory.malloc import keep_pages
    from groupconv_server.server import Server

    keep_pages()
    with Server(Config(port=0, executor="local", shared_memory=shared, max_batch=most)) as server:
        pipe.send(server.address)
        while pipe.recv() is not None:
            pipe.send(psutil.Process().memory_info().rss)


def call(pipe: Connection, target: str, name: str, kind: str) -> None:
    """The client; asked for a number of requests it makes them, and says its resident bytes."""
    one = layer_call(target, name, kind)
    pipe.send(None)
    while (count := pipe.recv()) is not None:
        for _ in range(count):
            one()
        pipe.send(psutil.Process().memory_info().rss)


def main() -> None:
    """The command."""
    import groupconv

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--layer", default="small", help="as in bench/serving.py")
    parser.add_argument("--shared-memory", action="store_true")
    parser.add_argument("--max-batch", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all of it here")
    options = parser.parse_args()
    server = Process(serve, options.shared_memory, options.max_batch)
    target = server.pipe.recv()
    layer = layer_named(options.layer)
    _, w, b = layer.arrays()
    with groupconv.connect(target) as client:
        client.load_layer(options.layer, w, b, layer.spec, inputs=[layer.geometry.input_shape])
    caller = Process(call, target, options.layer, "shared" if options.shared_memory else "service")
    caller.pipe.recv()
    begun = time.perf_counter()
    rows = []
    for _ in range(POINTS + 1):  # the first is after the warm-up
        held = caller.ask(options.requests // POINTS)
        rows.append({"client": held / 2**20, "server": server.ask() / 2**20})
        print(f"client {rows[-1]['client']:.1f} MiB, server {rows[-1]['server']:.1f} MiB", flush=True)
    growth = {side: rows[-1][side] / rows[0][side] for side in ("client", "server")}
    seconds = time.perf_counter() - begun
    print(f"{options.requests} requests after the warm-up, {seconds:.0f} s in all: client × {growth['client']:.4f}, "
          f"server × {growth['server']:.4f}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "growth": growth}, indent=2))
    for process in (caller, server):
        process.close()


if __name__ == "__main__":
    main()
