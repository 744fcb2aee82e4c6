"""Integers that an operator gives in environment variables."""

import os
from collections.abc import Mapping

from groupconv.errors import InvalidArgumentError


def integer_variable(
    name: str, default: int, most: int | None = None, *, environ: Mapping[str, str] = os.environ
) -> int:
    """The value of a variable, from 0 on, or `default` if it is not set.

    Raises:
        InvalidArgumentError: naming the variable. An empty one is no number, either: a template whose value is missing
            leaves it behind.

    Example:
        >>> integer_variable("NICE", 5, 19, environ={"NICE": "20"})
        Traceback (most recent call last):
        ...
        groupconv.errors.InvalidArgumentError: NICE: expected an integer from 0 to 19, got '20'
    """
    text = environ.get(name)
    if text is None:
        return default
    what = "an integer from 0 on" if most is None else f"an integer from 0 to {most}"
    try:
        value = int(text)
    except ValueError:
        raise InvalidArgumentError(name, what, text) from None
    if value < 0 or (most is not None and value > most):
        raise InvalidArgumentError(name, what, text)
    return value
