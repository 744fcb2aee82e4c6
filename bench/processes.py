"""The processes of the serving benchmarks: a server, bare echoes and a bare service, the engine alone, clients.

Each is asked over a pipe and answers there. They stay while others are measured, so that contenders take turns.
"""

import asyncio
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import grpc
import numpy as np

Call = Callable[[], object]
SPAWN = multiprocessing.get_context("spawn")
CORES = len(os.sched_getaffinity(0))
OWN: dict[str, Any] = {
    "small": ({}, (1, 16, 4, 4), (16, 16, 1, 1)),
    "large": ({"padding": 1, "groups": 64}, (1, 64, 512, 512), (64, 1, 3, 3)),
    "large_grouped": ({"padding": 1, "groups": 16}, (1, 64, 512, 512), (64, 4, 3, 3)),
}
"""Spec and shapes of input and kernel."""
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Process:
    """A child that answers what it is asked over a pipe: by default the CPU it has used."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=target, args=(theirs, *args), daemon=True)
        self.process.start()

    def ask(self, question: Any = "cpu") -> Any:
        """One answer."""
        self.pipe.send(question)
        return self.pipe.recv()

    def close(self) -> None:
        """The child ends."""
        self.pipe.send(None)
        self.process.join()


class Command(NamedTuple):
    """A running `groupconv serve`: where it listens, and the id of its first process, which is above the others."""

    address: str
    pid: int


@contextmanager
def served(processes: int, *options: str) -> Iterator[Command]:
    """`groupconv serve` with so many processes on local workers, until the end of the block."""
    command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--processes", str(processes)]
    command += ["--executor", "local", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield Command(server.stdout.readline().split()[-1], server.pid)
        finally:
            server.terminate()


def answer(pipe: Connection) -> None:
    """Answer with the CPU used, until told to end."""
    while pipe.recv() is not None:
        pipe.send(time.process_time())


def serve(pipe: Connection, executor: str, workers: int | None, threads: int | None, shared: bool) -> None:
    """The server under test."""
    from groupconv_server.config import Config
    from groupconv_server.memory.malloc import keep_pages
    from groupconv_server.server import Server

    keep_pages()
    config = Config(port=0, executor=executor, workers=workers, threads=threads, shared_memory=shared)
    with Server(config) as server:
        pipe.send(server.address)
        answer(pipe)


def echo_sync(pipe: Connection, reply: int) -> None:
    """A bare synchronous echo."""
    body = bytes(reply)
    serve_bare(pipe, lambda _request, _context: body)


def bare(pipe: Connection, name: str, workers: int | None) -> None:
    """The engine behind a bare synchronous method: what can be had with grpcio's server and this engine."""
    from groupconv.wire.codec import message_with
    from groupconv_server.memory.malloc import keep_pages

    keep_pages()
    prepared, x = prepare(name, 1)
    turn, shape = threading.Semaphore(workers or CORES), layer_named(name).geometry.output_shape

    def call(raw: bytes, _context: object) -> bytes:
        message, y = message_with(1, x.dtype, shape)
        with turn:
            prepared.run(np.frombuffer(raw, x.dtype).reshape(x.shape), y)
        return message

    serve_bare(pipe, call)


def serve_bare(pipe: Connection, call: Callable[[bytes, Any], bytes]) -> None:
    """One synchronous method, and nothing else."""
    handler = grpc.unary_unary_rpc_method_handler(call)
    server = grpc.server(ThreadPoolExecutor(16), options=UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(f"127.0.0.1:{port}")
    answer(pipe)
    server.stop(None)


def echo_aio(pipe: Connection, reply: int) -> None:
    """A bare asyncio echo."""
    body = bytes(reply)

    async def call(_request: bytes, _context: object) -> bytes:
        return body

    async def main() -> None:
        server = grpc.aio.server(options=UNLIMITED)
        handler = grpc.unary_unary_rpc_method_handler(call)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"Call": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        pipe.send(f"127.0.0.1:{port}")
        await asyncio.to_thread(answer, pipe)
        await server.stop(None)

    asyncio.run(main())


def engine(pipe: Connection, name: str) -> None:
    """The engine alone; asked for `(threads, seconds, shared)` it says CPU and median seconds of a run."""
    from groupconv.memory.arena import Arena

    runs = {n: prepare(name, n)[0] for n in {1, CORES}}
    given = layer_named(name).arrays()[0]
    own = given, np.empty(layer_named(name).geometry.output_shape, np.float32)
    arena, there = Arena(), []
    for array in own:
        segment = arena.begin_segment(array.nbytes, concurrent=True)
        segment.unlink()
        arena.end_segment(segment, "nobody's")
        there.append(arena.allocate(array.nbytes).array(array.dtype, array.shape))
    there[0][...] = given
    for prepared in runs.values():
        prepared.run(*own)
        prepared.run(*there)
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        threads, seconds, shared = asked
        x, out = there if shared else own
        times, cpu = closed(lambda: runs[threads].run(x, out), seconds)  # noqa: B023 - used within the turn
        pipe.send((cpu / len(times), statistics.median(times)))


def prepare(name: str, threads: int) -> tuple[Any, np.ndarray]:
    """A layer prepared by the engine that a server takes here, with so many threads, and its input."""
    from groupconv.convolution.dtypes import types_of
    from groupconv_worker.contract import Problem
    from groupconv_worker.engines import create_engine

    layer = layer_named(name)
    x, w, b = layer.arrays()
    problem = Problem(layer.geometry, types_of(x.dtype, w.dtype, b.dtype))
    return create_engine("auto", threads=threads).prepare(problem, w, b, resident=True), x


def load(pipe: Connection, kind: str, target: str, name: str) -> None:
    """A client; asked for `(seconds, rate)` it says its latencies and CPU. Rate 0 is a closed loop."""
    call = echo_call(target, name) if kind.startswith(("echo", "bare")) else layer_call(target, name, kind)
    for _ in range(20):
        call()
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        seconds, rate, seed = asked
        pipe.send(opened(call, seconds, rate, seed) if rate else closed(call, seconds))


def echo_call(target: str, name: str) -> Call:
    """One bare call with the input's bytes."""
    unary: Any = grpc.insecure_channel(target, options=UNLIMITED).unary_unary("/Echo/Call")
    body = layer_named(name).arrays()[0].tobytes()
    return lambda: unary(body)


def layer_call(target: str, name: str, kind: str) -> Call:
    """One call of the layer through the SDK."""
    import groupconv

    client = groupconv.connect(target, shared_memory=kind in ("shared", "in_place"))
    layer = client.get_layer(name)
    x = layer_named(name).arrays()[0]
    if kind == "in_place":
        theirs, x = x, client.empty(x.shape)
        x[...] = theirs
    return lambda: layer(x)


def closed(call: Call, seconds: float) -> tuple[list[float], float]:
    """Latencies and CPU of one call after another."""
    times, cpu = [], time.process_time()
    now = time.perf_counter()
    end = now + seconds
    while now < end:
        call()
        before, now = now, time.perf_counter()
        times.append(now - before)
    return times, time.process_time() - cpu


def opened(call: Call, seconds: float, rate: float, seed: int) -> tuple[list[float], float]:
    """Latencies from when each was due, at a Poisson rate; a client that is late sends at once."""
    due = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds) + 1).cumsum()
    times, cpu, start = [], time.process_time(), time.perf_counter()
    for at in due:
        wait = start + at - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        call()
        times.append(time.perf_counter() - start - at)
    return times, time.process_time() - cpu


def layer_named(name: str) -> Any:
    """A layer of the catalogue, or one of this file's."""
    from groupconv import ConvSpec, resolve
    from groupconv_server.layers import catalogue

    if name not in OWN:
        return catalogue.layer_named(name)
    spec, x, w = OWN[name]
    spec = ConvSpec(**spec)
    return catalogue.CatalogueLayer(name, "bench/processes.py", spec, resolve(spec, x, w))
