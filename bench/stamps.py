"""Servers and clients of bench/accounting.py, which stamp the parts of a request and count the CPU of engines.

Stamps are times of `time.perf_counter`, the clock that all processes of a machine share. `PARTS` has their order.
"""

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import processes
from processes import bare, echo_sync, load, prepare, serve

PARTS = (
    ("called", ""),
    ("encoded", "client: the request laid out"),
    ("arrived", "wire: gRPC's thread of the server has the call"),
    ("begun", "admitted, and a thread of the pool has it"),
    ("received", "wire: that thread has the message"),
    ("parsed", "decoded"),
    ("performed", "layer and deadline found, room for the answer"),
    ("planned", "planned"),
    ("executing", "cut"),
    ("computing", "the first shard is in an engine"),
    ("computed", "computed by the caller"),
    ("executed", "the other shards ended, too"),
    ("answered", "merged, counted, recorded, the answer given to gRPC"),
    ("came", "wire: the client has the answer"),
    ("done", "client: the answer read"),
)
"""Stamps in their order, each with what precedes it."""

stamps: dict[str, list[float]] = defaultdict(list)
engine_cpu = [0.0]


def stamp(owner: Any, name: str, before: str = "", after: str = "") -> None:
    """Stamp when a function is called, and when it returns."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def run(*arguments: Any, **keywords: Any) -> Any:
        if before:
            stamps[before].append(time.perf_counter())
        result = function(*arguments, **keywords)
        if after:
            stamps[after].append(time.perf_counter())
        return result

    setattr(owner, name, run)


def serve_stamped(pipe: Connection, workers: int, threads: int, stamped: bool) -> None:
    """The server, with stamps or with the CPU of its engines."""
    from groupconv_server.admission import call, gate, interceptor
    from groupconv_server.coordinator import coordinator
    from groupconv_server.executors import local
    from groupconv_server.servicers import convolution
    from groupconv_worker import runtime

    run_shard = runtime.run_shard

    def counted(*arguments: Any, **keywords: Any) -> Any:
        start = time.thread_time()
        ran = run_shard(*arguments, **keywords)
        engine_cpu[0] += time.thread_time() - start
        return ran

    def first(*arguments: Any, **keywords: Any) -> Any:
        mine = len(stamps["computing"]) < len(stamps["executing"])
        if mine:
            stamps["computing"].append(time.perf_counter())
        ran = run_shard(*arguments, **keywords)
        if mine:
            stamps["computed"].append(time.perf_counter())
        return ran

    runtime.run_shard = first if stamped else counted
    if stamped:
        stamp(interceptor.Interceptor, "intercept_service", "arrived")
        stamp(call.UnaryCall, "stream_unary", "begun", "answered")
        stamp(gate.Ticket, "hold", "received")
        stamp(convolution, "parse", "", "parsed")
        stamp(coordinator.Coordinator, "run", "performed")
        stamp(coordinator.Coordinator, "_plan", "", "planned")
        stamp(local.LocalExecutor, "run", "executing", "executed")
    serve(_ServerPipe(pipe), "local", workers, threads, False)


class _ServerPipe:
    """The pipe of `serve`, which also answers requests for stamps and for the CPU of the engines."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.send = pipe, pipe.send

    def recv(self) -> Any:
        while (request := self.pipe.recv()) in ("stamps", "engine"):
            limit = time.perf_counter() + 1  # the client has its last answer before that is stamped
            while len(stamps["answered"]) < len(stamps["begun"]) and time.perf_counter() < limit:
                time.sleep(1e-4)
            self.pipe.send(dict(stamps) if request == "stamps" else engine_cpu[0])
            if request == "stamps":
                for found in stamps.values():
                    found.clear()
        return request


def echo_counted(pipe: Connection, reply: int) -> None:
    """The bare echo, which has no engine."""
    echo_sync(_ServerPipe(pipe), reply)


def bare_counted(pipe: Connection, name: str, workers: int) -> None:
    """The bare service, with the CPU of its engine."""
    prepared, x = prepare(name, 1)
    processes.prepare = lambda *_: (_CountedLayer(prepared.run), x)
    bare(_ServerPipe(pipe), name, workers)


class _CountedLayer:
    """A prepared layer of which the CPU is counted."""

    def __init__(self, run: Callable[..., None]) -> None:
        self._run = run

    def run(self, x: np.ndarray, y: np.ndarray) -> None:
        start = time.thread_time()
        self._run(x, y)
        engine_cpu[0] += time.thread_time() - start


def load_stamped(pipe: Connection, target: str, name: str) -> None:
    """A client of one layer that stamps."""
    from groupconv import layer

    stamp(layer.Layer, "__call__", "called", "done")
    stamp(layer, "with_input", "", "encoded")
    stamp(layer, "read_answer", "came")
    load(_ClientPipe(pipe), "service", target, name)


class _ClientPipe:
    """The pipe of `load`, which sends the stamps with each answer and clears them."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.recv = pipe, pipe.recv

    def send(self, answer: Any) -> None:
        self.pipe.send((answer, dict(stamps)))
        for found in stamps.values():
            found.clear()
