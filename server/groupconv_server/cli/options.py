"""Options that several commands have."""

from typing import Annotated

import typer

from groupconv.errors import InvalidArgumentError

TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.001)]


def integers(option: str, text: str) -> tuple[int, ...]:
    """The value of an option as numbers.

    Raises:
        InvalidArgumentError: naming the option.

    Example:
        >>> integers("--input", "1,96,27,27")
        (1, 96, 27, 27)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgumentError(option, "integers separated by commas", text) from None
