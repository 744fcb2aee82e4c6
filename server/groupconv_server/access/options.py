"""Options that decide who is let in, or what is encrypted: one that is set but empty is an error."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

import typer

from groupconv.errors import InvalidArgumentError
from groupconv_server.access.variables import PANEL, check_variables


def option(*flags: str, envvar: str, help: str, **settings: Any) -> Any:  # noqa: A002 - typer's name
    """An access option, to annotate a command's parameter with."""
    return typer.Option(*flags, envvar=envvar, help=help, rich_help_panel=PANEL, **settings)


def fails_closed(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that fails if one of its access options is set but empty, as a flag or a variable."""
    access = {
        name: setting.envvar
        for name, parameter in inspect.signature(command).parameters.items()
        if get_origin(parameter.annotation) is Annotated
        for setting in get_args(parameter.annotation)[1:]
        if getattr(setting, "rich_help_panel", None) == PANEL
    }

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        check_variables(access.values())
        for name in access:
            if given[name] is not None and str(given[name]).strip() in ("", "."):  # Path("") is "."
                raise InvalidArgumentError("--" + name.replace("_", "-"), "a value", "an empty one")
        return command(**given)

    return run
