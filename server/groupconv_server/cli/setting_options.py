"""The options of a command, made from `Settings`."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from annotated_types import Ge, Le

from groupconv_server.settings import PREFIX, Settings


def takes_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """A command with an option for each field of `Settings`."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(Settings.read(**given))

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=_option(name, field))
        for name, field in Settings.model_fields.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _option(name: str, field: Any) -> Any:
    """The type of a field, annotated with its option."""
    bounds = {type(bound): bound for bound in field.metadata}
    more = dict(field.json_schema_extra["option"])
    option = typer.Option(
        *more.pop("flags", ()),
        envvar=PREFIX + name.upper(),
        help=field.description,
        min=bounds[Ge].ge if Ge in bounds else None,
        max=bounds[Le].le if Le in bounds else None,
        **more,
    )
    return Annotated[field.annotation, option]
