"""Options that several commands have, and what their values stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from groupconv.convolution.dtypes import is_float
from groupconv.convolution.spec import MATHS, ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv.networks.tensors import TensorInfo
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


def shapes_of(inputs: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by input name, from NAME=N,C,H,W.

    Example:
        >>> shapes_of(["x=1,3,8,8", "threshold="])
        {'x': (1, 3, 8, 8), 'threshold': ()}
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in inputs:
        name, equals, shape = text.rpartition("=")
        if not equals or not name:
            raise InvalidArgumentError("--input", "NAME=N,C,H,W", text)
        shapes[name] = integers("--input", shape) if shape else ()
    return shapes


def random_inputs(infos: Sequence[TensorInfo], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Inputs to try a network with: numbers from 0 to 1, as pictures have, and zeros where they are integers.

    Args:
        infos: the network's inputs.
        shapes: of those whose shape is free.

    Raises:
        InvalidArgumentError: a shape is free and not given.

    Example:
        >>> random_inputs([TensorInfo("x", np.dtype(np.float32), (None, 2))], {"x": (1, 2)})
        {'x': array([[0.6369617 , 0.26978672]], dtype=float32)}
    """
    generator, inputs = np.random.default_rng(0), {}
    for info in infos:
        extents = shapes.get(info.name, info.shape)
        shape = tuple(extent for extent in extents if isinstance(extent, int))
        if len(shape) < len(extents):
            raise InvalidArgumentError("--input", f"{info.name}=N,C,H,W, as its shape is free: {info}", "none")
        array = generator.random(shape) if is_float(info.dtype) else np.zeros(shape)
        inputs[info.name] = array.astype(info.dtype)
    return inputs
