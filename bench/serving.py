"""A served layer against the bare transport and the bare engine, in one run.

    python bench/serving.py [--layer alexnet_conv2 ...] [--clients 1 8] [--seconds 3] [--rounds 3] [--json FILE]
    python bench/serving.py --shared-memory --layer alexnet_conv2 small large

The server has a process, each client has one. In turns, so that a busy neighbour meets all alike: a bare grpcio echo
(synchronous and asyncio: a request of the input's bytes, an answer of the output's), the layer through the SDK, and the
engine in a process of its own (its CPU on one thread; its time on every core). Closed loops of `--clients`, then
an open one: arrivals are Poisson at `--load` of the closed rate, a latency counts from when its request was due.

Two ratios say what the service adds. `latency_per_floor`: median at one client over the median of the cheaper echo plus
the engine's time on every core. `throughput_per_ceiling`: the rate at the most clients over
cores / (engine CPU + server CPU + client CPU of the cheaper echo).

`--bare` adds the engine behind a bare synchronous method of the same bytes, without limits, names, deadlines, plan or
telemetry: what can be had with grpcio's server in Python, which the ceiling does not know.

`--shared-memory` adds the layer through the SDK's shared memory: `shared` from an array of the client's own, `in_place`
from one that lies there already; and for each its median at one client over the engine's time on every core, and its
rate at the most clients over that of the wire. The engine is timed on NumPy's own arrays, as a caller in its process
would have them, and on arrays in shared memory: what lies there begins on a cache line, which some kernels gain from,
and on the pages that the machine gives shared memory. Beside the catalogue's layers there are `small`, 1 KB in and
out, and `large` and `large_grouped`, 64 MiB in and out (3×3, 64 groups and 16).
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from processes import CORES, Process, bare, echo_aio, echo_sync, engine, layer_named, load, serve


def turn(server: Process, clients: list[Process], seconds: float, rate: float = 0) -> dict[str, float]:
    """Requests a second, percentiles in ms, CPU of a request on either side in ms."""
    before, start = server.ask(), time.perf_counter()
    for seed, client in enumerate(clients):
        client.pipe.send((seconds, rate / len(clients), seed))
    answers = [client.pipe.recv() for client in clients]
    wall, used = time.perf_counter() - start, server.ask() - before
    times = np.concatenate([t for t, _ in answers])
    found = {"requests_per_second": len(times) / wall}
    found |= {f"p{p}_ms": float(np.percentile(times, p)) * 1e3 for p in (50, 90, 99)}
    found["server_cpu_ms"] = used / len(times) * 1e3
    found["client_cpu_ms"] = sum(c for _, c in answers) / len(times) * 1e3
    return found


def median(rows: list[dict[str, float]]) -> dict[str, float]:
    """Field by field."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one layer."""
    import groupconv

    layer = layer_named(name)
    _, w, b = layer.arrays()
    reply = int(np.prod(layer.geometry.output_shape)) * 4
    alone = Process(engine, name)
    alone.pipe.recv()  # it tunes, on its own; the server then takes what it found
    servers = {
        "echo_sync": Process(echo_sync, reply),
        "echo_aio": Process(echo_aio, reply),
        "service": Process(serve, options.executor, options.workers, options.threads, options.shared_memory),
    }
    if options.bare:
        servers["bare"] = Process(bare, name, options.workers)
    targets = {kind: server.pipe.recv() for kind, server in servers.items()}
    if options.shared_memory:
        for kind in ("shared", "in_place"):
            servers[kind], targets[kind] = servers["service"], targets["service"]
    with groupconv.connect(targets["service"]) as client:
        client.load_layer(name, w, b, layer.spec, inputs=[layer.geometry.input_shape])
        most = max(options.clients)
        clients = {kind: [Process(load, kind, target, name) for _ in range(most)] for kind, target in targets.items()}
        for several in clients.values():
            for one in several:
                one.pipe.recv()
        rows: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.rounds):
            for count in options.clients:
                for kind, server in servers.items():
                    row = turn(server, clients[kind][:count], options.seconds)
                    rows.setdefault(f"{kind}_{count}", []).append(row)
            cpu, _ = alone.ask((1, options.seconds / 2, False))
            _, wall = alone.ask((CORES, options.seconds / 2, False))
            row = {"cpu_ms": cpu * 1e3, "all_cores_ms": wall * 1e3}
            if options.shared_memory:
                row["there_ms"] = alone.ask((CORES, options.seconds / 2, True))[1] * 1e3
            rows.setdefault("engine", []).append(row)
        found: dict[str, Any] = {key: median(of) for key, of in rows.items()}
        rate = options.load * found[f"service_{most}"]["requests_per_second"]
        found["service_open"] = turn(servers["service"], clients["service"], options.seconds, rate) | {"offered": rate}
    for one in [*(c for several in clients.values() for c in several), alone, *set(servers.values())]:
        one.close()
    return {"layer": name, **found, **ratios(found, options.clients)}


def ratios(found: dict[str, Any], counts: list[int]) -> dict[str, float]:
    """What the service adds to the echo and the engine."""
    least, most = min(counts), max(counts)
    floor = min(found[f"echo_{k}_{least}"]["p50_ms"] for k in ("sync", "aio")) + found["engine"]["all_cores_ms"]
    echo = min(
        found[f"echo_{k}_{most}"]["server_cpu_ms"] + found[f"echo_{k}_{most}"]["client_cpu_ms"] for k in ("sync", "aio")
    )
    ceiling = CORES / (found["engine"]["cpu_ms"] + echo) * 1e3
    shared = {}
    for kind in ("shared", "in_place"):
        if f"{kind}_{most}" in found:
            shared[f"{kind}_per_engine"] = found[f"{kind}_{least}"]["p50_ms"] / found["engine"]["all_cores_ms"]
            shared[f"{kind}_per_engine_there"] = found[f"{kind}_{least}"]["p50_ms"] / found["engine"]["there_ms"]
            rate = found[f"{kind}_{most}"]["requests_per_second"]
            shared[f"{kind}_per_wire"] = rate / found[f"service_{most}"]["requests_per_second"]
    if f"bare_{most}" in found:
        rate = found[f"bare_{most}"]["requests_per_second"]
        shared["bare_per_ceiling"] = rate / ceiling
        shared["throughput_per_bare"] = found[f"service_{most}"]["requests_per_second"] / rate
    return shared | {
        "latency_floor_ms": floor,
        "latency_per_floor": found[f"service_{least}"]["p50_ms"] / floor,
        "throughput_ceiling": ceiling,
        "throughput_per_ceiling": found[f"service_{most}"]["requests_per_second"] / ceiling,
    }


def show(found: dict[str, Any]) -> None:
    """The table of one layer."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found['layer']}, {CORES} cores")
    for head in ("", "requests/s", "p50 ms", "p90 ms", "p99 ms", "server CPU ms", "client CPU ms"):
        table.add_column(head, justify="left" if not head else "right")
    for key, row in found.items():
        if isinstance(row, dict) and "p50_ms" in row:
            keys = ("p50_ms", "p90_ms", "p99_ms", "server_cpu_ms", "client_cpu_ms")
            table.add_row(key, f"{row['requests_per_second']:.0f}", *(f"{row[k]:.3f}" for k in keys))
    console = Console(width=110)
    console.print(table)
    there = f", {found['engine']['there_ms']:.3f} in shared memory" if "there_ms" in found["engine"] else ""
    console.print(
        f"engine: {found['engine']['cpu_ms']:.3f} ms CPU, {found['engine']['all_cores_ms']:.3f} ms on all cores{there}"
    )
    console.print(f"latency   {found['latency_per_floor']:.3f} × the floor of {found['latency_floor_ms']:.3f} ms")
    console.print(
        f"throughput {found['throughput_per_ceiling']:.3f} × the ceiling of {found['throughput_ceiling']:.0f}/s"
    )
    if "bare_per_ceiling" in found:
        console.print(
            f"bare service: {found['bare_per_ceiling']:.3f} × the ceiling; "
            f"the service has {found['throughput_per_bare']:.3f} × its rate"
        )
    for kind in ("shared", "in_place"):
        if f"{kind}_per_wire" in found:
            console.print(
                f"{kind}: latency {found[f'{kind}_per_engine']:.3f} × the engine's, "
                f"{found[f'{kind}_per_engine_there']:.3f} × the engine's in shared memory, "
                f"throughput {found[f'{kind}_per_wire']:.3f} × the wire's"
            )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = "of the catalogue; small, large, large_grouped"
    parser.add_argument("--layer", nargs="+", default=["alexnet_conv2"], help=named)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=float, default=0.7, help="of the closed loop's rate, in the open one")
    parser.add_argument("--executor", default="local", help="local or ray")
    parser.add_argument("--workers", type=int, help="of the server; as in `groupconv serve`")
    parser.add_argument("--threads", type=int, help="of a worker; as in `groupconv serve`")
    parser.add_argument("--bare", action="store_true", help="also the engine behind a bare method")
    parser.add_argument("--shared-memory", action="store_true", help="also through shared memory")
    parser.add_argument("--json", type=Path, help="write all of it here")
    options = parser.parse_args()
    results = []
    for name in options.layer:
        results.append(measure(name, options))
        show(results[-1])
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
