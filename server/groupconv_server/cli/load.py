"""`groupconv load`: put a server under load and check its answers."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv.pictures import picture_path
from groupconv.text import table
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.options import layer_names
from groupconv_server.cli.signals import handled

if TYPE_CHECKING:
    from groupconv_server.load.drive import Load
    from groupconv_server.load.outcome import LoadOutcome

EXAMPLES = """Examples:

$ groupconv load --clients 8 --seconds 10

$ groupconv load --target gpu-box:50051 --layer mobilenet_dw_14 --clients 1

$ groupconv load --layer alexnet_conv2 --clients 1 --cut rows

$ groupconv load --profile mix --rate 50 --html report.html --plot report.png

$ groupconv load --profile my-mix.yaml --web 127.0.0.1:8089

$ groupconv load --profile soak --metrics http://localhost:9464/metrics --plot soak.png
"""
MAX_PORT = 65535


def command(
    endpoint: Endpoint,
    profile: Annotated[
        str | None,
        typer.Option(help="A YAML file with the mix of requests, or mix or soak. Default: requests of --layer alone."),
    ] = None,
    layer: Annotated[
        str,
        typer.Option(
            autocompletion=layer_names, help="A layer of the catalogue; its weights travel with each request."
        ),
    ] = ("alexnet_conv2"),
    cut: Annotated[
        str | None, typer.Option(help="What to cut the layer along: nothing, group, rows, 'group x rows'.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Connections, each with one request at a time.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Duration of the load.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Requests per second, at times that do not wait for answers; latency counts from these times.",
        ),
    ] = None,
    verify: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the answers that are compared with the reference.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write Locust's report to this page.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw throughput and latency: .png, .svg or .pdf.")] = None,
    metrics: Annotated[str | None, typer.Option(help="URL of the server's metrics, to record its memory.")] = None,
    web: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve Locust's page at this address; the page starts the load."),
    ] = None,
) -> None:
    """Send requests from several clients; print requests/s and latency.

    Exit code 1 if any answer failed or was wrong, or none came. These options override the profile.
    """
    try:
        from groupconv_server.load.drive import Load, end_load
    except ModuleNotFoundError as missing:
        raise FailedPreconditionError(f"no {missing.name}: expected pip install 'groupconv[load]'") from None
    from groupconv_server.load.memory import MemoryProbe, growth
    from groupconv_server.load.plot import plot as draw
    from groupconv_server.load.profile import profile_of_layer, read_profile

    if plot:
        picture_path("--plot", plot)
    base = read_profile(profile) if profile else profile_of_layer(layer, cut)
    options = {"users": clients, "seconds": seconds, "rate": rate, "verify": verify}
    wanted = base.model_copy(update={key: value for key, value in options.items() if value is not None})
    if profile and cut:
        raise InvalidArgumentError("--cut", "--layer, or `cut:` in the profile", f"--profile {profile}")
    page = _host_and_port(web) if web else None
    memory = MemoryProbe(metrics) if metrics else None
    with (
        handled(end_load),
        Load(wanted, lambda: endpoint.connect(wanted.timeout), target=endpoint.target, memory=memory) as load,
    ):
        if page:
            typer.echo(f"Locust's page is on http://{web}")
            load.serve(*page)
            return
        outcome = _with_a_bar(load, profile or layer)
        report = load.report() if html else ""
    if html:
        html.write_text(report)
    if plot:
        draw(
            outcome, plot, title=f"groupconv load --profile {profile}" if profile else f"groupconv load --layer {layer}"
        )
    if len(outcome.cases) > 1:
        typer.echo(table(list(outcome.rows()), left=frozenset([0])))
    if outcome.memory:
        first, last = outcome.memory[0][1], outcome.memory[-1][1]
        per_hour = growth(outcome.memory) * 3600
        grown = f", {per_hour / 2**20:+.1f} MiB/h" if isfinite(per_hour) else ""
        typer.echo(f"server memory {_mebibytes(first)} → {_mebibytes(last)}{grown}")
    typer.echo(outcome.summary())
    if outcome.wrong or outcome.failed or outcome.missed or not outcome.answers:
        raise typer.Exit(1)


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.0f} MiB" if isfinite(size) else "unknown"


def _host_and_port(text: str) -> tuple[str, int]:
    """The value of --web.

    Raises:
        InvalidArgumentError: it is not HOST:PORT.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise InvalidArgumentError("--web", f"HOST:PORT, with a port up to {MAX_PORT}", text)
    return host, int(port)


def _with_a_bar(load: "Load", title: str) -> "LoadOutcome":
    bar = Progress(
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.fields[answers]} answers"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=load.profile.seconds, answers=0)
        return load.run(lambda gone, outcome: bar.update(task, completed=gone, answers=outcome.answers))
