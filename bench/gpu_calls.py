"""Whole calls of the cuda engine on host arrays: where their time goes, and what chunks and threads do for them."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import types_of
from groupconv_server.layers.catalogue import catalogue
from groupconv_worker.contract import Problem
from groupconv_worker.cuda import copying
from groupconv_worker.cuda.captured_runs import CapturedChunk
from groupconv_worker.cuda.chunks import maps_of
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.options import CudaOptions

LAYERS = ("alexnet_conv2", "resnet50_1x1_56", "mobilenet_dw_14", "dcgan_up3")
CHUNKS = (4, 8, 16)
COPIERS = ((1, 1024), (4, 1024), (4, 256), (8, 1024), (8, 256))
"""Threads that copy, and KiB from which on they do."""
CALLERS = (1, 2, 4, 8)
REPEATS = 15
CORES = os.cpu_count() or 1


def calls(batch: int) -> Iterator[str]:
    """Two tables of markdown; what is not captured is reported on standard error."""
    logging.basicConfig()
    logging.getLogger("groupconv_worker.cuda").setLevel(logging.DEBUG)
    yield f"\nMicroseconds of a call, batch {batch}, by MiB of a chunk, threads that copy and KiB from which on they do"
    columns = [(chunk, *copiers) for copiers in COPIERS for chunk in CHUNKS]
    yield "| layer | " + " | ".join("{}, {}, {}".format(*column) for column in columns) + " | not captured |"
    yield "| --- |" + " ---: |" * (len(columns) + 1)
    before = copying.MOST, copying.LEAST, copying.SHARE
    for name in LAYERS:
        engine = CudaEngine()
        algorithm = _prepared(engine, name, batch)[0].algorithm  # the one that was measured to be the fastest
        engine.close()
        cells = []
        for chunk, threads, least in columns:
            copying.MOST, copying.LEAST, copying.SHARE = threads, least * 2**10, least * 2**9
            cells.append(_call(name, batch, threads, algorithm=algorithm, chunk=chunk * 2**20))
        copying.MOST, copying.LEAST, copying.SHARE = before
        cells.append(_call(name, batch, CORES, algorithm=algorithm, graph_memory=0))
        yield f"| {name} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |"
    if batch == 1:
        yield "\nMicroseconds of the steps of a captured run, and calls a second of so many threads"
        yield (
            "| layer | algorithm | copy in | copy in and launch | wait | copy out | "
            + " | ".join(map(str, CALLERS))
            + " |"
        )
        yield "| --- | --- |" + " ---: |" * (4 + len(CALLERS))
        for name in LAYERS:
            yield _steps(name)


def _arrays(name: str, batch: int) -> tuple[Problem, Any, Any, Any, Any]:
    """A layer's problem, input, weights and bias, and room for its output."""
    layer = catalogue()[name].with_batch(batch)
    x, w, b = layer.arrays()
    problem = Problem(layer.geometry, types_of(x.dtype, w.dtype))
    return problem, x, w, b, np.empty(problem.geometry.output_shape, x.dtype)


def _prepared(engine: CudaEngine, name: str, batch: int) -> tuple[Any, Any, Any]:
    problem, x, w, b, out = _arrays(name, batch)
    return engine.prepare(problem, w, b, resident=True), x, out


def _call(name: str, batch: int, threads: int, **options: Any) -> float:
    engine = CudaEngine(threads=threads, options=CudaOptions(**options))
    prepared, x, out = _prepared(engine, name, batch)
    took = median_of_calls(lambda: prepared.run(x, out))
    engine.close()
    return took


def _steps(name: str) -> str:
    engine = CudaEngine(threads=CORES)
    gpu, (problem, x, w, b, out) = engine.gpu, _arrays(name, 1)
    prepared = engine.prepare(problem, w, b, resident=True)
    with gpu.streams():
        kernel = engine.kernel(problem, w, b, resident=True)
    maps, groups = maps_of(problem), slice(0, problem.geometry.groups)
    with gpu.current():
        captured = CapturedChunk(gpu, kernel, maps, 1, groups, locked=False)
    pinned = gpu.pinned_array(x.shape, x.dtype)
    steps: dict[Callable[[], None], list[float]] = {
        partial(gpu.copy, pinned, x): [],
        partial(captured.begin, x, out): [],
        captured.wait: [],
        partial(captured.end, out): [],
    }
    for _ in range(200):
        for step, seen in steps.items():
            start = perf_counter()
            step()
            seen.append((perf_counter() - start) * 1e6)
    rates = [_rate(prepared, x, out, callers) for callers in CALLERS]
    engine.close()
    cells = [*(f"{median(seen):.1f}" for seen in steps.values()), *(f"{rate:.0f}" for rate in rates)]
    return f"| {name} | {prepared.algorithm} | " + " | ".join(cells) + " |"


def _rate(prepared: Any, x: Any, out: Any, callers: int) -> float:
    """Calls a second of so many threads, for a fifth of a second, after each has made what it keeps."""
    counts, together, seconds = [0] * callers, threading.Barrier(callers), 0.2

    def run(i: int) -> None:
        mine = np.empty_like(out)
        try:
            for _ in range(20):
                prepared.run(x, mine)
        except BaseException:
            together.abort()
            raise
        together.wait()
        until = perf_counter() + seconds
        while perf_counter() < until:
            prepared.run(x, mine)
            counts[i] += 1

    threads = [threading.Thread(target=run, args=(i,)) for i in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def median_of_calls(call: Any) -> float:
    """Microseconds of a call, by the clock on the wall."""
    times = []
    for _ in range(4 + REPEATS):
        start = perf_counter()
        call()
        times.append((perf_counter() - start) * 1e6)
    return median(times[4:])
