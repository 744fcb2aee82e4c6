"""Environment variables that decide who is let in. One that is set but empty is an error.

A template whose value is missing leaves an empty variable behind. If that meant "not set", the server would serve
without tokens where the operator wanted them.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from groupconv.errors import FailedPreconditionError, InvalidArgumentError

PANEL = "Access"
"""The panel in the help of options that decide who is let in, or what is encrypted."""
RAY = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Variables that Ray's processes read."""


def check_variables(names: Iterable[str], environ: Mapping[str, str] = os.environ) -> None:
    """Refuse variables that are set but empty, or hold only white space.

    Raises:
        InvalidArgumentError: naming the variable.

    Example:
        >>> check_variables(["TOKENS"], {"TOKENS": ""})
        Traceback (most recent call last):
        ...
        groupconv.errors.InvalidArgumentError: TOKENS: expected a value, or the variable not set, got an empty value
    """
    for name in names:
        if not environ.get(name, "set").strip():
            raise InvalidArgumentError(f"{name}: expected a value, or the variable not set, got an empty value")


def check_ray_token(environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a token of Ray's cluster that is set but empty. Ray would use the one in the home folder instead.

    Raises:
        InvalidArgumentError: a variable that is empty.
        FailedPreconditionError: a token's file that is empty or cannot be read.
    """
    check_variables(RAY, environ)
    if path := environ.get("RAY_AUTH_TOKEN_PATH"):
        try:
            token = Path(path).read_text().strip()
        except (OSError, ValueError) as error:
            raise FailedPreconditionError(f"RAY_AUTH_TOKEN_PATH: {error}") from None
        if not token:
            raise FailedPreconditionError(f"RAY_AUTH_TOKEN_PATH: {path} is empty: it must hold the cluster's token")
