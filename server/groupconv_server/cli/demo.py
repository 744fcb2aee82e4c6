"""`groupconv demo`: every variant on a photograph, through gRPC, checked and drawn."""

from pathlib import Path
from typing import Annotated

import typer

from groupconv.errors import InvalidArgumentError
from groupconv.pictures import picture_path
from groupconv_server.cli.connection import Endpoint

EXAMPLES = """Examples:

$ groupconv demo

$ groupconv demo --web

$ groupconv demo --target localhost:50051 --output sheet.png
"""


CONTACT_SHEET = "groupconv-demo.png"


def command(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help=f"File of the contact sheet, a picture of all results. Default: {CONTACT_SHEET}."
        ),
    ] = None,
    endpoint: Endpoint | None = None,
    executor: Annotated[
        str | None,
        typer.Option(
            help="Executor of the server that the command starts: ray or local. Default: ray, with --web local."
        ),
    ] = None,
    photo: Annotated[
        Path | None, typer.Option(help="An image of your own. Default: the astronaut of scikit-image.", exists=True)
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Open the page on which convolutions can be seen, until stopped.")
    ] = False,
) -> None:
    """Serve, run every variant on a photograph and AlexNet's layers, check each against the float64 reference.

    Prints one table and writes a contact sheet. Exit code 1 if any check fails. With --web it opens a page instead.
    """
    if web:
        target = endpoint and endpoint.target
        for option, value in {"--target": target, "--photo": photo, "--output": output}.items():
            if value is not None:
                raise InvalidArgumentError(option, "no such option beside --web, which starts a server", value)
        from groupconv_server.demo.page import open_page

        open_page(executor or "local")
        return
    from groupconv_server.demo.run import run_demo

    output = output or Path(CONTACT_SHEET)
    picture_path("--output", output)
    connect = None if endpoint is None else endpoint.connect
    if not run_demo(output=output, connect=connect, executor=executor or "ray", photo=photo):
        raise typer.Exit(1)
