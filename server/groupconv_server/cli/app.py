"""The commands put together, and what they share: errors as one line, exit codes."""

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from groupconv import __version__
from groupconv.errors import GroupconvError, InvalidArgumentError
from groupconv_server.cli.access import fails_closed
from groupconv_server.cli.connection import with_endpoint


def one_line_errors(command: Callable[..., Any], wrong_usage: int = 1) -> Callable[..., Any]:
    """A command whose expected failures are one line on stderr and an exit code.

    The code is `wrong_usage` for an invalid argument or a file that is not there, and 1 for everything else.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (GroupconvError, OSError) as error:
            request = getattr(error, "request_id", "")
            typer.echo(f"groupconv: {error}" + f" (request {request})" * bool(request), err=True)
            wrong = isinstance(error, InvalidArgumentError | FileNotFoundError)
            raise typer.Exit(wrong_usage if wrong else 1) from None

    return run


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"groupconv {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="groupconv",
    help="Distributed grouped convolution as a gRPC service.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    log_level: Annotated[str, typer.Option(envvar="GROUPCONV_LOG_LEVEL", help="DEBUG, INFO, WARNING…")] = "INFO",
) -> None:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    for library in ("onnx_ir", "onnxscript"):
        logging.getLogger(library).setLevel(logging.ERROR)  # they warn of what `layers load` says itself
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def _register() -> None:
    from groupconv_server.cli import (
        bench,
        conv,
        demo,
        health,
        layers,
        load,
        networks,
        plan,
        run,
        serve,
        status,
        token,
        warmup,
        worker,
    )

    for module in (serve, worker, demo, conv, run, plan, status, health, load, warmup):
        command = module.command
        if "endpoint" in inspect.signature(command).parameters:
            command = with_endpoint(command)
        wrong_usage = 2 if module is conv else 1
        app.command(name=module.NAME, epilog=module.EXAMPLES)(one_line_errors(fails_closed(command), wrong_usage))
    bench.app.registered_commands[0].callback = one_line_errors(bench.engine)
    app.add_typer(bench.app)
    for room in (layers, networks):
        for name, command, examples in room.COMMANDS:
            room.app.command(name=name, epilog=examples)(one_line_errors(fails_closed(with_endpoint(command))))
        app.add_typer(room.app)
    token.app.command(name="new", epilog=token.NEW)(one_line_errors(token.new))
    token.app.command(name="hash", epilog=token.HASH)(one_line_errors(token.hash_))
    app.add_typer(token.app)


_register()
