"""`groupconv warmup`: compile and tune ahead of the first request."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from groupconv_server.cli.bench import select

EXAMPLES = """Examples:

$ groupconv warmup

$ groupconv warmup --rows resnext,mobilenet --threads 2
"""


def command(
    layers: Annotated[Path | None, typer.Option(help="A CSV like the catalogue's; by default the catalogue.")] = None,
    rows: Annotated[str, typer.Option(help="Only layers whose name has one of these parts, by commas.")] = "",
    threads: Annotated[int, typer.Option(help="Threads of a worker.", min=1)] = 1,
) -> None:
    """Compile the kernels and tune the algorithms of layers, so that no request waits for either.

    Both are remembered on disk: compiled code beside the package or in NUMBA_CACHE_DIR, tunings in the user's cache.
    """
    from groupconv.convolution.dtypes import types_of
    from groupconv_worker.cpu.engine import CpuEngine
    from groupconv_worker.cpu.kernels.forms import FORMS
    from groupconv_worker.engines import Problem

    FORMS.limit = sys.maxsize  # a server has a limit, and loads from disk what is compiled here
    engine = CpuEngine(threads=threads)
    for layer in select(layers, rows):
        x, w, b = layer.arrays()
        problem = Problem(layer.geometry, types_of(x.dtype, w.dtype, b.dtype))
        resident = engine.prepare(problem, w, b, resident=True).algorithm
        oneshot = engine.prepare(problem, w, b).algorithm
        typer.echo(f"{layer.name}: {resident}" + (f" (one-shot {oneshot})" if oneshot != resident else ""))
    engine.close()
