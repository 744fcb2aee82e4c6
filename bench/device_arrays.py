"""A layer called with arrays on a GPU: what the client's process spends until the answer is on the GPU again.

    python bench/device_arrays.py [--layer alexnet_conv2 ...] [--batch 1 32] [--seconds 0.5] [--rounds 3]

Needs a GPU and CuPy. A server in a process of its own and one client, in turns: `engine`, in the client's process on
its own arrays; `shared`, through CUDA IPC; `copied`, to the host, through shared memory, and back; `wire`, likewise
without shared memory. Medians in microseconds, of the rounds' medians.
"""

import argparse
import statistics
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from processes import Call, Process, closed, layer_named, serve

from groupconv_worker.cuda.engine import CudaEngine, why_unavailable

KINDS = ("engine", "shared", "copied", "wire")


def client(pipe: Connection, target: str, name: str, batch: int) -> None:
    """Asked for `(kind, seconds)` it says its latencies."""
    import cupy

    import groupconv
    from groupconv import resolve
    from groupconv.convolution.dtypes import types_of
    from groupconv_worker.contract import Problem

    layer = layer_named(name)
    x, w, b = layer.arrays()
    x = np.concatenate([x] * batch)
    geometry = resolve(layer.spec, x.shape, w.shape)
    prepared = CudaEngine().prepare(Problem(geometry, types_of(x.dtype, w.dtype, b.dtype)), w, b, resident=True)
    there, out = cupy.asarray(x), cupy.empty(geometry.output_shape, x.dtype)
    near, far = (groupconv.connect(target, shared_memory=shared).get_layer(name) for shared in (True, False))

    def by_the_host(called: Any) -> None:
        out.set(called(there.get()))
        cupy.cuda.get_current_stream().synchronize()

    calls: dict[str, Call] = {
        "engine": lambda: prepared.run(there, out),
        "shared": lambda: near(there, out=out),
        "copied": lambda: by_the_host(near),
        "wire": lambda: by_the_host(far),
    }
    for call in calls.values():
        closed(call, 0.2)
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        kind, seconds = asked
        pipe.send(closed(calls[kind], seconds)[0])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", nargs="+", default=["mobilenet_dw_14", "alexnet_conv2", "resnet50_1x1_56"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry-run", action="store_true", help="only read the options")
    options = parser.parse_args()
    if options.dry_run:
        return
    if reason := why_unavailable():
        sys.exit(f"bench/device_arrays.py: {reason}")
    import groupconv

    server = Process(serve, "local", None, None, True)
    target = server.pipe.recv()
    print(f"| layer | batch | MiB in and out | {' | '.join(KINDS)} | copied ÷ shared |")
    print("| --- | ---: | ---: |" + " ---: |" * (len(KINDS) + 1))
    for name in options.layer:
        layer = layer_named(name)
        x, w, b = layer.arrays()
        with groupconv.connect(target) as sdk:
            sdk.load_layer(name, w, b, layer.spec)
        for batch in options.batch:
            asked = Process(client, target, name, batch)
            asked.pipe.recv()
            found: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(options.rounds):
                for kind in KINDS:
                    found[kind].append(statistics.median(asked.ask((kind, options.seconds))) * 1e6)
            asked.close()
            took = {kind: statistics.median(times) for kind, times in found.items()}
            moved = batch * 4 * (x.size + int(np.prod(layer.geometry.output_shape))) / 2**20
            figures = " | ".join(f"{took[kind]:.0f}" for kind in KINDS)
            ratio = took["copied"] / took["shared"]
            print(f"| {name} | {batch} | {moved:.1f} | {figures} | {ratio:.2f} |", flush=True)
    server.close()


if __name__ == "__main__":
    main()
