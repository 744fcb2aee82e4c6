"""`groupconv load`: put a server under load and check every answer."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from groupconv_server.catalogue import layer_named
from groupconv_server.cli.connection import Endpoint
from groupconv_server.load import Tally, run_load

NAME = "load"
EXAMPLES = """Examples:

$ groupconv load --clients 8 --seconds 10

$ groupconv load --target gpu-box:50051 --layer mobilenet_dw_14 --clients 1
"""


def command(
    endpoint: Endpoint,
    layer: Annotated[str, typer.Option(help="A layer of the catalogue; its weights travel with each request.")] = (
        "alexnet_conv2"
    ),
    clients: Annotated[int, typer.Option(min=1, help="Connections that ask, one request each at a time.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long.")] = 10.0,
) -> None:
    """Ask a server for one layer from several clients; print requests/s, p50 and p99.

    Exit code 1 if any answer failed or was wrong, or none came.
    """
    bar = Progress(
        TextColumn(layer),
        BarColumn(),
        TextColumn("{task.fields[answers]} answers"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=seconds, answers=0)

        def show(gone: float, tally: Tally) -> None:
            bar.update(task, completed=min(gone, seconds), answers=len(tally.seconds))

        tally = run_load(endpoint.connect, layer_named(layer), clients=clients, seconds=seconds, progress=show)
    typer.echo(tally.summary())
    if tally.errors or not tally.seconds:
        raise typer.Exit(1)
