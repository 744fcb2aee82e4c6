"""What bringing a request to its workers and the result back costs: by lanes, Ray calls, in process, by bare gRPC.

    python bench/dispatch.py [--bytes 1024 ... ] [--workers 1 2 ...] [--repeats 30] [--json FILE]

The request is a pointwise depthwise convolution of as many bytes in as out, cut along groups, a shard for each worker.
Its overhead is the time of `executor.run` less that of the slowest shard in its engine; the median of repeats, the ways
taking turns so that a busy neighbour meets all alike. The ways:

    lanes      RayExecutor as it is
    ray        the same executor, every lane closed: shards as Ray calls, arrays as objects
    local      LocalExecutor: threads of this process
    grpc       a bare unary call over a Unix socket, the bytes in the message, as many back; one after the other
    grpc-empty the same with 16 bytes, as if the arrays lay in shared memory

`lanes / ray` is the ratio that the threshold of `groupconv status` rests on.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from groupconv import ConvSpec
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.text import human_bytes
from groupconv_server.executors import Executor, Task, create_executor
from groupconv_worker.contract import Problem
from groupconv_worker.resident import ResidentKey
from groupconv_worker.shard import Stage

SIZES = (1024, 16 * 1024, 280 * 1024, 2**20, 16 * 2**20, 64 * 2**20)
CHANNELS = 16
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Overhead = Callable[[], float]


def tasks_of(size: int, workers: tuple[str, ...]) -> list[Task]:
    """A request of `size` bytes in and out: one shard for each worker, its kernel resident as a served layer's is."""
    x = np.ones((1, CHANNELS, 1, size // CHANNELS // 4), np.float32)
    out = np.zeros_like(x)
    w = np.full((CHANNELS, 1, 1, 1), 2, np.float32)
    bounds = np.linspace(0, CHANNELS, len(workers) + 1).astype(int)
    tasks = []
    for i, worker in enumerate(workers):
        part = slice(bounds[i], bounds[i + 1])
        g = resolve(ConvSpec(groups=len(w[part])), x[:, part].shape, w[part].shape)
        key = ResidentKey(f"bench/{size}", 1, 0, ((int(bounds[i]), int(bounds[i + 1])), (0, 1), (0, 1), (0, 1)))
        stage = Stage(Problem(g, types_of(x.dtype, w.dtype)), w[part], None, key)
        tasks.append(Task(i, worker, (stage,), x[:, part], out[:, part]))
    return tasks


def through(executor: Executor, size: int) -> Overhead:
    """Seconds that a request takes beyond its slowest shard's time in the engine."""
    tasks = tasks_of(size, executor.workers())

    def once() -> float:
        start = time.perf_counter()
        reports = executor.run(tasks)
        passed = time.perf_counter() - start
        return passed - max(sum(r.compute_seconds for r in shard) for shard in reports)

    once()
    assert all((task.out == 2).all() for task in tasks)
    return once


def echo(pipe: Connection, address: str) -> None:
    """A bare gRPC server that gives back what it is given."""
    server = grpc.server(ThreadPoolExecutor(2), options=UNLIMITED)
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"Call": handler}),))
    server.add_insecure_port(address)
    server.start()
    pipe.send(None)
    pipe.recv()
    server.stop(None)


@contextmanager
def bare_grpc() -> Iterator[Callable[[int], Overhead]]:
    """Calls of so many bytes to a process with such a server."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/echo"
        context = get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=echo, args=(theirs, address), daemon=True)
        process.start()
        pipe.recv()
        with grpc.insecure_channel(address, options=UNLIMITED) as channel:
            call: Any = channel.unary_unary("/Echo/Call")

            def of(size: int) -> Overhead:
                body = bytes(size)

                def once() -> float:
                    start = time.perf_counter()
                    call(body)
                    return time.perf_counter() - start

                return once

            yield of
        pipe.send(None)
        process.join()


@contextmanager
def without_lanes(executor: Any) -> Iterator[None]:
    """Every lane out of use, for the moment."""
    limits = {slot: slot.lane.limit for slot in executor.membership.ready() if slot.lane is not None}
    for slot in limits:
        slot.lane.limit = -1
    yield
    for slot, limit in limits.items():
        slot.lane.limit = limit


def measure(workers: int, sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    """One row for each size."""
    ray = create_executor("ray", workers=workers, threads=1)
    local = create_executor("local", workers=workers, threads=1)
    rows = []
    with bare_grpc() as call:
        for size in sizes:
            lanes, threads = through(ray, size), through(local, size)

            def calls(lanes: Overhead = lanes) -> float:
                with without_lanes(ray):
                    return lanes()

            ways = {"lanes": lanes, "ray": calls, "local": threads, "grpc": call(size), "grpc-empty": call(16)}
            times: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(2 + repeats if size < 2**24 else 2 + max(5, repeats // 3)):
                for way, once in ways.items():
                    seconds = once()
                    if turn >= 2:
                        times[way].append(seconds)
            row: dict[str, Any] = {"workers": workers, "bytes": size}
            row |= {way: statistics.median(found) * 1e3 for way, found in times.items()}
            rows.append(row | {"ratio": row["lanes"] / row["ray"]})
    limits = {w.id: w.lane_limit for w in ray.describe()}
    print(f"{workers} workers: lanes up to {', '.join(human_bytes(n) for n in limits.values())}", flush=True)
    local.close()
    ray.close()
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """As a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="overhead of a request, ms (medians)")
    for head in ("workers", "bytes in and out", "lanes", "ray", "local", "grpc", "grpc-empty", "lanes / ray"):
        table.add_column(head, justify="right")
    for row in rows:
        ways = (f"{row[way]:.3f}" for way in ("lanes", "ray", "local", "grpc", "grpc-empty"))
        table.add_row(str(row["workers"]), human_bytes(row["bytes"]), *ways, f"{row['ratio']:.2f}")
    Console(width=110).print(table)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", nargs="+", type=int, default=list(SIZES), help="of the input, and of the output")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=30, help="of each way; a third for 16 MiB and more")
    parser.add_argument("--json", type=Path, help="write all of it here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows = [row for workers in options.workers for row in measure(workers, options.bytes, options.repeats)]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
