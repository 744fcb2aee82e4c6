"""Where a request's time goes, and the cores' under many clients: a served layer taken apart, beside the bare echo.

    python bench/accounting.py [--layer alexnet_conv2 ...] [--clients 8] [--seconds 1] [--rounds 3]

First one client: the median of each part of a request, stamped in client and server by the clock that both share, and
the echo's and the engine's beside it. Then `--clients` at a time: how the ceiling of bench/serving.py, which is made of
CPU alone, turns into the rate: what of the cores' time went to the engine beyond what it takes alone, to the rest of
the server and to the clients beyond an echo's, to the kernel outside all of them, and what was idle.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from processes import CORES, Process, engine, layer_named, load
from serving import median
from stamps import PARTS, bare_counted, echo_counted, load_stamped, serve_stamped

HZ = 100
"""Of /proc/stat."""


def parts(server: Process, client: Process, seconds: float) -> dict[str, float]:
    """Median microseconds of each part of a request of one client."""
    server.ask("stamps")
    (times, _), theirs = client.ask((seconds, 0, 0))
    at = {**theirs, **server.ask("stamps")}
    count = len(times)
    rows = np.array([at[name][-count:] for name, _ in PARTS])
    found = {label: float(np.median(np.diff(rows, axis=0)[i])) * 1e6 for i, (_, label) in enumerate(PARTS[1:])}
    return found | {"all of it": float(np.median(rows[-1] - rows[0])) * 1e6}


def switches(process: Process) -> tuple[int, int]:
    """Context switches of all threads of a process, and its page faults."""
    folder = Path(f"/proc/{process.process.pid}")
    found = 0
    for task in (folder / "task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return found, int((folder / "stat").read_text().rsplit(")", 1)[1].split()[7])


def machine() -> np.ndarray:
    """Seconds of all cores so far: in processes, in the kernel's interrupts, idle."""
    user, nice, system, idle, wait, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return np.array([user + nice + system, irq + soft + steal, idle + wait]) / HZ


def many(server: Process, clients: list[Process], seconds: float) -> dict[str, float]:
    """What a request costs under many clients, in microseconds of one core, and what the cores did."""
    everyone = [server, *clients]
    noticed = np.array([switches(p) for p in everyone])
    cpu, engines = server.ask(), server.ask("engine")
    before, start = machine(), time.perf_counter()
    for client in clients:
        client.pipe.send((seconds, 0, 0))
    answers = [client.pipe.recv() for client in clients]
    wall, cores = time.perf_counter() - start, machine() - before
    used = server.ask() - cpu
    count = sum(len(times) for times, _ in answers)
    spent, idle = cores[1:] / count * 1e6
    noticed = (np.array([switches(p) for p in everyone]) - noticed) / count
    return {
        "rate": count / wall,
        "engine": (server.ask("engine") - engines) / count * 1e6,
        "server": used / count * 1e6,
        "client": sum(c for _, c in answers) / count * 1e6,
        "kernel": spent,
        "idle": idle,
        "switches of the server": noticed[0, 0],
        "switches of the clients": noticed[1:, 0].sum(),
        "faults of the server": noticed[0, 1],
        "faults of the clients": noticed[1:, 1].sum(),
    }


def measure(name: str, options: argparse.Namespace) -> None:
    """Both tables of one layer."""
    import groupconv

    layer = layer_named(name)
    _, w, b = layer.arrays()
    workers, threads = options.workers, options.threads
    servers = {
        "echo": Process(echo_counted, int(np.prod(layer.geometry.output_shape)) * 4),
        "bare": Process(bare_counted, name, workers * threads),
        "service": Process(serve_stamped, workers, threads, False),
        "stamped": Process(serve_stamped, workers, threads, True),
    }
    alone = Process(engine, name)
    targets = {kind: server.pipe.recv() for kind, server in servers.items()}
    alone.pipe.recv()
    for kind in ("service", "stamped"):
        with groupconv.connect(targets[kind]) as client:
            client.load_layer(name, w, b, layer.spec)
    clients = {
        kind: [Process(load, kind, targets[kind], name) for _ in range(options.clients)]
        for kind in servers
        if kind != "stamped"
    }
    clients["stamped"] = [Process(load_stamped, targets["stamped"], name)]
    for several in clients.values():
        for one in several:
            one.pipe.recv()
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(options.rounds):
        rows["parts"].append(parts(servers["stamped"], clients["stamped"][0], options.seconds))
        for kind in ("echo", "bare", "service"):
            times, _ = clients[kind][0].ask((options.seconds / 2, 0, 0))
            rows[f"{kind}_1"].append({"p50": statistics.median(times) * 1e6})
            rows[kind].append(many(servers[kind], clients[kind], options.seconds))
        cpu, _ = alone.ask((1, options.seconds / 2, False))
        _, wall = alone.ask((CORES, options.seconds / 2, False))
        rows["engine"].append({"cpu": cpu * 1e6, "wall": wall * 1e6})
    found = {key: median(of) for key, of in rows.items()}
    for one in [*(c for several in clients.values() for c in several), alone, *servers.values()]:
        one.close()
    show(name, options, found)


def show(name: str, options: argparse.Namespace, found: dict[str, dict[str, float]]) -> None:
    """Print them."""
    engine, echo = found["engine"], found["echo"]
    print(f"{name}, one client, median µs; {options.workers} workers of {options.threads} threads, {CORES} cores")
    for label, value in found["parts"].items():
        print(f"{value:9.0f}  {label}")
    floor = found["echo_1"]["p50"] + engine["wall"]
    p50 = found["service_1"]["p50"]
    print(f"{floor:9.0f}  floor: echo {found['echo_1']['p50']:.0f} + engine on all cores {engine['wall']:.0f}")
    print(f"{p50:9.0f}  without stamps: {p50 / floor:.2f} × the floor")
    total = engine["cpu"] + echo["server"] + echo["client"]
    ceiling = CORES / total * 1e6
    print(f"{name}, {options.clients} clients, µs of a core for each request; the ceiling is {ceiling:.0f}/s")
    kinds = ("echo", "bare", "service")
    print(f"{'':42}" + "".join(f"{kind:>10}" for kind in kinds))

    def line(label: str, of: Callable[[dict[str, float], float], float], digits: int = 0) -> None:
        values = [of(found[kind], 0.0 if kind == "echo" else engine["cpu"]) for kind in kinds]
        print(f"{label:42}" + "".join(f"{value:10.{digits}f}" for value in values))

    line("engine alone", lambda _, alone: alone)
    line("echo: server and client", lambda *_: echo["server"] + echo["client"])
    line("server, more than engine and echo", lambda row, alone: row["server"] - alone - echo["server"])
    if options.threads == 1:  # else the CPU of helpers is not told apart
        line("  of it in the engine", lambda row, alone: row["engine"] - alone)
    line("clients, more than the echo's", lambda row, _: row["client"] - echo["client"])
    line("kernel: interrupts, stolen", lambda row, _: row["kernel"])
    line("idle", lambda row, _: row["idle"])
    line("all cores", lambda row, *_: CORES / row["rate"] * 1e6)
    line("requests/s", lambda row, _: row["rate"])
    line("of its ceiling", lambda row, alone: row["rate"] / CORES * (alone + echo["server"] + echo["client"]) / 1e6, 3)
    for label in ("switches of the server", "switches of the clients", "faults of the server", "faults of the clients"):
        line(label, lambda row, _, label=label: row[label], 1)  # type: ignore[misc]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", nargs="+", default=["alexnet_conv2"])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="of the server")
    parser.add_argument("--threads", type=int, default=CORES, help="of a worker")
    options = parser.parse_args()
    for name in options.layer:
        measure(name, options)


if __name__ == "__main__":
    main()
