"""`groupconv warmup`: compile and tune ahead of the first request."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from groupconv.convolution.dtypes import types_of
from groupconv.errors import InvalidArgumentError
from groupconv_server.cli.bench import select
from groupconv_server.layers.catalogue import CatalogueLayer

EXAMPLES = """Examples:

$ groupconv warmup

$ groupconv warmup --no-tune

$ groupconv warmup --engine cuda

$ groupconv warmup --rows resnext,mobilenet --threads 2
"""


def command(
    layers: Annotated[Path | None, typer.Option(help="A CSV like the catalogue's; by default the catalogue.")] = None,
    rows: Annotated[str, typer.Option(help="Only layers whose name has one of these parts, by commas.")] = "",
    threads: Annotated[int, typer.Option(help="Threads of a worker.", min=1)] = 1,
    engine: Annotated[str, typer.Option(help="cpu, cuda, or auto: both where there is a GPU.")] = "auto",
    tune: Annotated[
        bool, typer.Option("--tune/--no-tune", help="Measure the algorithms, too, not only compile kernels.")
    ] = True,
) -> None:
    """Compile the kernels and tune the algorithms of layers ahead of the first request.

    A server does so by itself, beside its requests; until then they get general algorithms. Both are remembered on
    disk, in the user's cache directory (NUMBA_CACHE_DIR moves the CPU's kernels, CUPY_CACHE_DIR a GPU's). Without
    tuning, kernels are compiled for requests that bring theirs, for one thread and for several, and for what a server
    measures when it starts.
    """
    from groupconv_worker.cuda.engine import why_unavailable

    chosen = select(layers, rows)
    if engine not in ("auto", "cpu", "cuda"):
        raise InvalidArgumentError("--engine", "auto, cpu or cuda", engine)
    if engine != "cuda":
        _warm_cpu(chosen, threads, tune=tune)
    if engine == "cuda" or (engine == "auto" and not why_unavailable()):
        _warm_gpu(chosen, threads, tune=tune)


def _warm_cpu(layers: Sequence[CatalogueLayer], threads: int, *, tune: bool) -> None:
    from groupconv_server.planner.calibration_sizes import problems
    from groupconv_worker.contract import Problem
    from groupconv_worker.cpu.engine import CpuEngine
    from groupconv_worker.cpu.kernels.forms import FORMS

    FORMS.limit = sys.maxsize  # a server has a limit, and loads from disk what is compiled here
    engines = [CpuEngine(threads=count) for count in ([threads] if tune else [1, 2])]
    for layer in layers:
        x, w, b = layer.arrays()
        problem = Problem(layer.geometry, types_of(x.dtype, w.dtype, b.dtype))
        resident = {engines[0].prepare(problem, w, b, resident=True).algorithm: None} if tune else {}
        oneshot = dict.fromkeys(engine.prepare(problem, w, b).algorithm for engine in engines)
        algorithms = [*resident, *(f"one-shot {name}" for name in oneshot if name not in resident)]
        typer.echo(f"{layer.name}: {', '.join(algorithms)}")
    for problem in problems():
        for engine in engines:
            engine.prepare(problem, np.ones(problem.geometry.weight_shape, problem.types.weight))
    for engine in engines:
        engine.close()


def _warm_gpu(layers: Sequence[CatalogueLayer], threads: int, *, tune: bool) -> None:
    """A GPU's kernels are compiled when they are launched first, so each is run."""
    from groupconv_server.planner.calibration_sizes import problems
    from groupconv_worker.contract import Problem
    from groupconv_worker.engines import create_engine

    engine = create_engine("cuda", threads=threads)
    for layer in layers:
        x, w, b = layer.arrays()
        problem = Problem(layer.geometry, types_of(x.dtype, w.dtype, b.dtype))
        out = np.empty(layer.geometry.output_shape, problem.types.output)
        algorithms = []
        for resident in (True, False) if tune else (False,):
            prepared = engine.prepare(problem, w, b, resident=resident)
            prepared.run(x, out)
            algorithms.append(prepared.algorithm if resident else f"one-shot {prepared.algorithm}")
        typer.echo(f"{layer.name} on {engine.device()}: {', '.join(algorithms)}")
    for problem in problems():
        g, types = problem.geometry, problem.types
        prepared = engine.prepare(problem, np.ones(g.weight_shape, types.weight))
        prepared.run(np.ones(g.input_shape, types.input), np.empty(g.output_shape, types.output))
    engine.close()
