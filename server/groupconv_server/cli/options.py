"""Options that several commands have."""

from dataclasses import replace
from typing import Annotated

import typer

from groupconv.convolution.spec import MATHS, ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv.session import LONGEST_TIMEOUT
from groupconv_server.layers.catalogue import catalogue

TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.001, max=LONGEST_TIMEOUT)]


MathOption = Annotated[
    str | None,
    typer.Option(
        "--math", help=f"What a GPU may round float32 factors to: {', '.join(MATHS)}. Default: as its worker is set."
    ),
]


def with_precision(spec: ConvSpec, math: str | None, *, exact: bool) -> ConvSpec:
    """The spec with the values of `--math` and `--exact`, where they are given."""
    return replace(spec, exact=exact or spec.exact, math=spec.math if math is None else math)  # type: ignore[arg-type]  # refused if unknown


def layer_names(incomplete: str) -> list[str]:
    """Names of the catalogue that begin so, for the completion of shells."""
    return [name for name in catalogue() if name.startswith(incomplete)]


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
