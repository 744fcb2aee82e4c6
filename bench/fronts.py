"""Requests a second, processor time of a request and the spread of connections with one process and with several.

    python bench/fronts.py [--processes 1,2] [--clients 8] [--seconds 2] [--rounds 5] [--shared-memory] [--workers 1]
                           [--layers mobilenet_dw_14] [--cores 0.25]

Servers run side by side and are measured in turns. Each client is a process of its own in a closed loop, with one
connection. `CPU` is the server's, in ms for each request. `spread` is the requests of each process, in % and in each
round. `by processes used` has the median of the rounds in which all clients were connected to one process, to two, …
With `--workers` the processes share so many local workers. With `--cores` each process of the server gets so much of a
core and no more, so that clients have the rest: as on a machine with a core for each process. It needs root (cgroups).
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from processes import Process, served

USED = 5
"""% of the requests from which on a process counts as used: the client that asks for the status has a few."""
PERIOD = 20_000
"""Microseconds in which a limited process may use its part of a core."""
LAYERS = ("mobilenet_dw_14", "resnet50_1x1_56", "alexnet_conv2")


def client(pipe: Connection, address: str, shared: bool) -> None:
    """Calls a layer for so many seconds when asked, and answers with the number of calls."""
    import groupconv
    from groupconv_server.layers.catalogue import catalogue

    while (question := pipe.recv()) is not None:
        name, seconds = question
        x, _, _ = catalogue()[name].arrays()
        with groupconv.connect(address, shared_memory=shared) as connected:
            layer = connected.get_layer(name)
            if shared:
                source = x
                x = connected.empty(source.shape)
                x[...] = source
            layer(x)
            pipe.send("ready")
            pipe.recv()
            calls, until = 0, time.perf_counter() + seconds
            while time.perf_counter() < until:
                layer(x)
                calls += 1
            pipe.send(calls)
            pipe.recv()


@contextmanager
def limited(pid: int, cores: float) -> Iterator[None]:
    """Let a process use so much of a core and no more, until the end of the block."""
    first = Path("/sys/fs/cgroup/cpu")  # of cgroups version 1
    group = (first if first.is_dir() else first.parent) / f"groupconv-{pid}"
    group.mkdir()
    quota = f"{cores * PERIOD:.0f}"
    if first.is_dir():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(quota)
    else:
        (group / "cpu.max").write_text(f"{quota} {PERIOD}")
    (group / "cgroup.procs").write_text(str(pid))
    try:
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(left)
        group.rmdir()


class Served:
    """A server and its clients."""

    def __init__(
        self, processes: int, clients: int, shared: bool, workers: int | None, cores: float | None = None
    ) -> None:
        import groupconv

        options = ["--allow-shared-memory"] * shared + ([] if workers is None else ["--workers", str(workers)])
        self.opened = ExitStack()
        server = self.opened.enter_context(served(processes, *options))
        self.address = server.address
        self.client = self.opened.enter_context(groupconv.connect(self.address))
        if cores is not None:
            for pid in [process.pid for process in self.client.status().processes] or [server.pid]:
                self.opened.enter_context(limited(pid, cores))
        self.clients = [Process(client, self.address, shared) for _ in range(clients)]

    def run(self, name: str, seconds: float) -> tuple[float, float, list[int]]:
        """Requests a second, milliseconds of CPU for each, and the requests of each process in %."""
        for one in self.clients:
            one.pipe.send((name, seconds))
        for one in self.clients:
            one.pipe.recv()
        before: Any = self.client.status()
        for one in self.clients:
            one.pipe.send("go")
        calls = sum(one.pipe.recv() for one in self.clients)
        after: Any = self.client.status()
        for one in self.clients:
            one.pipe.send("done")
        earlier = {process.index: process.requests for process in before.processes}
        counts = [process.requests - earlier.get(process.index, 0) for process in after.processes] or [calls]
        spread = [round(100 * count / max(1, sum(counts))) for count in counts]
        return calls / seconds, (after.cpu_seconds - before.cpu_seconds) / calls * 1e3, spread

    def close(self) -> None:
        """End all."""
        for one in self.clients:
            one.close()
        self.opened.close()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shared-memory", action="store_true")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--layers", default=",".join(LAYERS))
    parser.add_argument("--cores", type=float, help="of each process of the server, as 0.25")
    given = parser.parse_args()
    from groupconv_server.layers.catalogue import catalogue

    servers = {
        int(n): Served(int(n), given.clients, given.shared_memory, given.workers, given.cores)
        for n in given.processes.split(",")
    }
    try:
        print("| layer | processes | requests/s | CPU, ms | by processes used | spread |\n" + "| --- " * 6 + "|")
        for name in given.layers.split(","):
            layer = catalogue()[name]
            x, w, bias = layer.arrays()
            for one in servers.values():
                one.client.load_layer(name, w, bias, layer.spec, inputs=[x.shape])
            found: dict[int, list[tuple[float, float, list[int]]]] = {n: [] for n in servers}
            for _ in range(given.rounds):
                for n, one in servers.items():
                    found[n].append(one.run(name, given.seconds))
            for n, rounds in found.items():
                rate = statistics.median(r[0] for r in rounds)
                cpu = statistics.median(r[1] for r in rounds)
                spread = "; ".join("+".join(map(str, r[2])) for r in rounds)
                used: dict[int, list[float]] = {}
                for r in rounds:
                    used.setdefault(sum(share > USED for share in r[2]), []).append(r[0])
                by = ", ".join(f"{k}: {statistics.median(v):.0f}" for k, v in sorted(used.items()))
                print(f"| {name} | {n} | {rate:.0f} | {cpu:.2f} | {by} | {spread} |", flush=True)
    finally:
        for one in servers.values():
            one.close()


if __name__ == "__main__":
    main()
