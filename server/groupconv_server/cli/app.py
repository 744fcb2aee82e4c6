"""The commands put together: each reports its errors as one line and has the same exit codes."""

import functools
import importlib
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

NAMES = (
    "serve",
    "worker",
    "demo",
    "conv",
    "run",
    "plan",
    "status",
    "health",
    "load",
    "warmup",
    "bench",
    "layers",
    "networks",
    "token",
)
"""The commands and groups of commands; each is a module of this folder."""


def one_line_errors(command: Callable[..., Any], wrong_usage: int = 1) -> Callable[..., Any]:
    """A command that reports its expected errors as one line on stderr.

    The exit code is `wrong_usage` for an invalid argument or a missing file, and 1 for any other error.
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


def _version(given: bool) -> None:
    if given:
        typer.echo(f"groupconv {__version__}")
        raise typer.Exit


@functools.cache
def app(*names: str) -> typer.Typer:
    """The command line.

    Args:
        names: of the commands it has; none of them means all. One alone loads its own libraries and no others.
    """
    made = _group(
        name="groupconv",
        help="Distributed grouped convolution as a gRPC service.",
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    made.callback()(_root)
    for name in names or NAMES:
        module = importlib.import_module(f"groupconv_server.cli.{name}")
        if hasattr(module, "command"):
            _add(made, name, module.command, module.EXAMPLES, wrong_usage=2 if name == "conv" else 1)
            continue
        group = _group(name=name, help=module.HELP)
        group.callback()(lambda: None)  # else typer has a group of one command be that command
        for command_name, command, examples in module.COMMANDS:
            _add(group, command_name, command, examples)
        made.add_typer(group)
    return made


def _group(**settings: Any) -> typer.Typer:
    return typer.Typer(no_args_is_help=True, **settings)


def _add(group: typer.Typer, name: str, command: Callable[..., Any], examples: str, wrong_usage: int = 1) -> None:
    if "endpoint" in inspect.signature(command).parameters:
        command = with_endpoint(command)
    group.command(name=name, epilog=examples)(one_line_errors(fails_closed(command), wrong_usage))


def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    log_level: Annotated[str, typer.Option(envvar="GROUPCONV_LOG_LEVEL", help="DEBUG, INFO, WARNING…")] = "INFO",
) -> None:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    for library in ("onnx_ir", "onnxscript"):
        logging.getLogger(library).setLevel(logging.ERROR)  # they warn of what `layers load` reports itself
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
