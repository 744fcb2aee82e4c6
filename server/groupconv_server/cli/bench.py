"""`groupconv bench engine`: the cpu engine against torch, onnxruntime and NumPy on this machine."""

import csv
from pathlib import Path
from typing import Annotated

import typer

from groupconv.errors import InvalidArgumentError, Words
from groupconv.pictures import picture_path, save
from groupconv_server.layers.catalogue import CatalogueLayer, catalogue, read_layers

HELP = "Measure this machine."
EXAMPLES = """Examples:

$ groupconv bench engine --rows resnext --threads 1

$ groupconv bench engine --simd avx2

$ groupconv bench engine --json out/engine.json --plot out/roofline.png
"""


def engine(
    layers: Annotated[Path | None, typer.Option(help="A CSV like the catalogue's; by default the catalogue.")] = None,
    rows: Annotated[str, typer.Option(help="Only layers whose name has one of these parts, by commas.")] = "",
    threads: Annotated[str, typer.Option(help="Numbers of threads, by commas.")] = "1,2",
    runs: Annotated[int, typer.Option(help="Timed runs of each contender.", min=3)] = 30,
    simd: Annotated[str, typer.Option(help="Hold the engine and its peers to these instructions: avx2.")] = "",
    json: Annotated[Path | None, typer.Option(help="Write the rows here as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the roofline: .png, .svg or .pdf.")] = None,
) -> None:
    """Compare the cpu engine, resident and one-shot, with torch, onnxruntime and NumPy patches."""
    from groupconv_server.measure import engine as measure
    from groupconv_server.measure import peers, report
    from groupconv_worker.cpu.kernels.target import is_restricted, target

    if plot is not None:
        picture_path("--plot", plot)
    chosen = select(layers, rows)
    counts = [int(count) for count in threads.split(",") if count.strip().isdecimal() and int(count)]
    if not counts:
        raise InvalidArgumentError("--threads", "numbers of threads by commas", threads)
    if simd:
        peers.restart_with(simd.lower())
    if is_restricted():
        typer.echo(f"kernels are held to {target().name}; {peers.UNHELD}")
    peaks = [measure.peaks(count) for count in counts]
    for peak in peaks:
        typer.echo(
            f"peak, {peak.threads} threads: {peak.gflops:.0f} GFLOP/s (GEMM), {peak.gbytes_per_s:.1f} GB/s (copy)"
        )
    typer.echo(report.HEADER)
    measured = []
    for row in measure.rows(chosen, counts, runs, None):
        measured.append(row)
        typer.echo(report.line(row))
    typer.echo(report.summary(measured))
    if json is not None:
        report.write_json(json, measured)
    if plot is not None:
        save(report.draw_roofline(measured, peaks), plot)


COMMANDS = (("engine", engine, EXAMPLES),)


def select(layers: Path | None, rows: str) -> list[CatalogueLayer]:
    """The layers of a file or the catalogue whose names contain one of the parts.

    Raises:
        InvalidArgumentError: none does, or the file is not like the catalogue's.

    Example:
        >>> [layer.name for layer in select(None, "mobilenet_dw_14,fcn")]
        ['mobilenet_dw_14', 'fcn_up_g21']
    """
    try:
        known = catalogue() if layers is None else read_layers(layers.read_text())
    except (KeyError, ValueError, csv.Error) as error:
        raise InvalidArgumentError("--layers", "a CSV with the catalogue's columns", Words(str(error))) from None
    if not known:
        raise InvalidArgumentError("--layers", "a CSV with the catalogue's columns, and a row for each layer", layers)
    parts = [part.strip() for part in rows.split(",") if part.strip()] or [""]
    chosen = [layer for name, layer in known.items() if any(part in name for part in parts)]
    if not chosen:
        raise InvalidArgumentError("--rows", f"parts of {', '.join(known)}", rows)
    return chosen
