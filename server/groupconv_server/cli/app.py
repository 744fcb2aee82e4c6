"""The commands put together: each reports its errors as one line and has the same exit codes."""

import functools
import importlib
import inspect
import logging
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Annotated, Any

import typer

from groupconv import __version__
from groupconv.errors import GroupconvError, InvalidArgumentError
from groupconv_server.access.options import fails_closed
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
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
HELP_WIDTH = 78
"""Columns of examples."""
log = logging.getLogger(__name__)


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that reports its errors as one line on stderr, with exit code 2 for wrong usage and 1 for others.

    Wrong usage is an invalid argument or a missing file. The traceback of an unexpected error is in the log at DEBUG.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise  # typer's own, and a reader that has gone
        except (GroupconvError, OSError) as error:
            request = getattr(error, "request_id", "")
            text = " ".join(_text(error).split()) + f" (request {request})" * bool(request)
            typer.echo(f"groupconv: {text}", err=True)
            raise typer.Exit(2 if isinstance(error, InvalidArgumentError | FileNotFoundError) else 1) from None
        except MemoryError as error:
            typer.echo(f"groupconv: out of memory ({' '.join(str(error).split()) or 'no more is known'})", err=True)
            raise typer.Exit(1) from None
        except Exception as error:  # noqa: BLE001 - a defect is one line too; DEBUG logs its traceback
            raise _unexpected(error) from None

    return run


def _text(error: Exception) -> str:
    """The message of an error. That of an OSError has the file and the reason, and no error number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    path = error.filename2 or error.filename
    return f"{path}: {error.strerror}" if path else error.strerror


def _unexpected(error: Exception) -> typer.Exit:
    """Report a defect of this program."""
    log.debug("an unexpected error", exc_info=error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    typer.echo(
        f"groupconv: unexpected {text} (a defect: `groupconv --log-level DEBUG` before the command shows where)",
        err=True,
    )
    return typer.Exit(1)


def _log_level(level: str) -> str:
    if level.upper() not in LEVELS:
        raise typer.BadParameter(f"expected one of {', '.join(LEVELS)}, got {level!r}")
    return level.upper()


@one_line_errors
def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"groupconv {__version__}")
        raise typer.Exit


@functools.cache
def app(*names: str) -> typer.Typer:
    """The command line.

    Args:
        names: of the commands it has; none of them means all. One alone loads its own libraries and no others.
    """
    commands = _group(
        name="groupconv",
        help="Distributed grouped convolution as a gRPC service.",
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    commands.callback()(_root)
    for name in names or NAMES:
        module = importlib.import_module(f"groupconv_server.cli.{name}")
        if hasattr(module, "command"):
            _add(commands, name, module.command, module.EXAMPLES)
            continue
        group = _group(name=name, help=module.HELP)
        group.callback()(lambda: None)  # else typer has a group of one command be that command
        for command_name, command, examples in module.COMMANDS:
            _add(group, command_name, command, examples)
        commands.add_typer(group, short_help=module.HELP)
    return commands


def _group(**settings: Any) -> typer.Typer:
    return typer.Typer(no_args_is_help=True, **settings)


def _add(group: typer.Typer, name: str, command: Callable[..., Any], examples: str) -> None:
    if "endpoint" in inspect.signature(command).parameters:
        command = with_endpoint(command)
    summary = inspect.cleandoc(command.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    run = one_line_errors(fails_closed(command))
    group.command(name=name, epilog=_examples(examples), short_help=summary)(run)


def _examples(text: str) -> str:
    """Examples, marked for click to keep their lines. A long command continues after a backslash, with an option."""
    lines = []
    for line in text.split("\n\n"):
        whole = re.sub(r"( --?[a-z-]+) (?!-)", "\\1\N{NO-BREAK SPACE}", line.strip())  # textwrap does not break there
        folded = textwrap.wrap(whole, HELP_WIDTH - 4, subsequent_indent="      ", break_on_hyphens=False)
        lines.append(" \\\n".join(folded).replace("\N{NO-BREAK SPACE}", " "))
    return "\b\n" + "\n".join(lines)


def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    log_level: Annotated[
        str, typer.Option(envvar="GROUPCONV_LOG_LEVEL", callback=_log_level, help=f"{', '.join(LEVELS)}.")
    ] = "INFO",
) -> None:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    for library in ("onnx_ir", "onnxscript"):
        logging.getLogger(library).setLevel(logging.ERROR)  # they warn of what `layers load` reports itself
    logging.basicConfig(level=log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
