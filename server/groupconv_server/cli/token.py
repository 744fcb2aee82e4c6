"""`groupconv token`: bearer tokens for a server's callers."""

import fcntl
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from groupconv.errors import AlreadyExistsError, InvalidArgumentError
from groupconv.transport.bounded import SMALL
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import digest_of, entry_text, new_token, parsed

HELP = "Make bearer tokens, and entries for the file of `serve --tokens`."
NEW = """Examples:

$ groupconv token new alice --file tokens.toml --output alice.token

$ groupconv token new batch --file tokens.toml --requests-per-second 50 --concurrent 8 -o batch.token
"""
HASH = """Examples:

$ groupconv token hash < alice.token
"""


def new(
    name: Annotated[str, typer.Argument(help="Whose it is: letters, digits, '_' and '-'. Shown in logs and metrics.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="The file of tokens, to which the entry is added.")],
    requests_per_second: Annotated[
        float | None, typer.Option(min=1e-3, help="Requests that may begin in a second.")
    ] = None,
    bytes_per_second: Annotated[
        float | None, typer.Option(min=1, help="Bytes of messages in a second, in and out together.")
    ] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Requests at a time.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new file for the token. Default: it is printed, once.")
    ] = None,
) -> None:
    """Make a token; the file gets its digest and its limits. New files are readable by their user alone (0600)."""
    token = new_token()
    entry = entry_text(name, token, CallerLimits(requests_per_second, bytes_per_second, concurrent))
    if output is None:
        _add_entry(file, name, entry)
        typer.echo(token)
        return
    _create(output, f"{token}\n")
    try:
        _add_entry(file, name, entry)
    except BaseException:
        output.unlink()  # a token that no file of a server knows
        raise


def _create(path: Path, text: str) -> None:
    """Write a new file of mode 0600."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise AlreadyExistsError(f"--output: expected a file that is not there yet, got {path}") from None
    with os.fdopen(descriptor, "w") as created:
        created.write(text)


def _add_entry(path: Path, name: str, entry: str) -> None:
    """Append an entry to a file of tokens, which keeps its inode, as it may be mounted into a container.

    A lock on the file makes commands that run at the same time wait for each other. A new file has mode 0600.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            text = file.read()
            known = parsed(text)
        except ValueError as error:
            why = "it is not text" if isinstance(error, UnicodeDecodeError) else error
            raise InvalidArgumentError(f"{path}: expected a TOML file of tokens: {why}") from None
        if name in known:
            raise AlreadyExistsError(f"{path} has a token of {name}: remove its table first")
        file.write(f"{_gap_after(text)}{entry}")


def _gap_after(text: str) -> str:
    """The separator between the last entry and the next one."""
    return "" if not text else "\n" if text.endswith("\n") else "\n\n"


def hash_(
    file: Annotated[
        typer.FileText | None, typer.Argument(help="A file that holds the token. Default: the input.")
    ] = None,
) -> None:
    """Print the digest of a token that was made elsewhere, for an entry's `sha256`."""
    text = (file or sys.stdin).read(SMALL + 1)
    if len(text) > SMALL:
        raise InvalidArgumentError("token", "at most 1 MiB", "more")
    token = text.strip()
    entry_text("checked", token, CallerLimits())
    typer.echo(digest_of(token))


COMMANDS = (("new", new, NEW), ("hash", hash_, HASH))
