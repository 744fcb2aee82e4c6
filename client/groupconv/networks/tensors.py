"""Inputs and outputs of a network: names, dtypes, and axes that a call may choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution.dtypes import DTYPES, is_float
from groupconv.errors import InvalidArgumentError

Array = NDArray[Any]
MAX_AXES = 8
"""Most axes of a network's input or output."""
NETWORK_DTYPES: dict[str, np.dtype] = DTYPES | {
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
    "int16": np.dtype(np.int16),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
}
"""Dtypes of a network's inputs and outputs: those of convolutions, and what other operators need."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or an output of a network.

    Attributes:
        name: in the model.
        dtype: of its elements.
        shape: for each axis its extent, or the model's name for it if any extent is accepted, or None without a name.
            Axes of the same name have the same extent in one call.

    Example:
        >>> str(TensorInfo("image", np.dtype("float32"), ("N", 3, None, None)))
        'image: float32 (N, 3, ?, ?)'
    """

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        extents = ", ".join("?" if extent is None else str(extent) for extent in self.shape)
        return f"{self.name}: {self.dtype} ({extents})"


def check_shapes(infos: Sequence[TensorInfo], shapes: Mapping[str, Sequence[int]]) -> None:
    """Check the shapes of one call's inputs.

    Args:
        infos: the network's inputs.
        shapes: one for each input, by its name.

    Raises:
        InvalidArgumentError: an input that is missing or unknown, or a shape that does not fit.

    Example:
        >>> x = TensorInfo("x", np.dtype("float32"), ("N", 3))
        >>> check_shapes([x], {"x": (2, 4)})
        Traceback (most recent call last):
            ...
        groupconv.errors.InvalidArgumentError: inputs['x'].shape[1]: expected 3, got 4
    """
    wanted = [info.name for info in infos]
    for name in shapes:
        if name not in wanted:
            raise InvalidArgumentError("inputs", f"inputs called {_quoted(wanted)}", repr(name))
    chosen: dict[str, tuple[int, str]] = {}
    for info in infos:
        if info.name not in shapes:
            raise InvalidArgumentError("inputs", f"inputs called {_quoted(wanted)}", f"none called {info.name}")
        shape, field = shapes[info.name], f"inputs[{info.name!r}].shape"
        if not isinstance(shape, Sequence) or not all(isinstance(n, int | np.integer) for n in shape):
            raise InvalidArgumentError(field, "a shape, one integer per axis", shape)
        if len(shape) != len(info.shape):
            raise InvalidArgumentError(field, f"{len(info.shape)} axes, as in {info}", list(shape))
        for i, (extent, known) in enumerate(zip(shape, info.shape, strict=True)):
            at = f"{field}[{i}]"
            if extent < 0:
                raise InvalidArgumentError(at, "an extent of at least 0", extent)
            if isinstance(known, int) and extent != known:
                raise InvalidArgumentError(at, str(known), extent)
            if isinstance(known, str):
                first, where = chosen.setdefault(known, (extent, at))
                if extent != first:
                    raise InvalidArgumentError(at, f"{first}, which axis {known!r} has in {where}", extent)


def with_fixed_shapes(infos: Sequence[TensorInfo], shapes: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """Shapes by the inputs' names, with those of the inputs that have no free axis and were left out.

    Example:
        >>> infos = [TensorInfo(name, np.dtype("float32"), shape) for name, shape in (("x", ("N", 3)), ("limit", ()))]
        >>> with_fixed_shapes(infos, {"x": (2, 3)})
        {'limit': (), 'x': (2, 3)}
    """
    fixed = {info.name: tuple(n for n in info.shape if isinstance(n, int)) for info in infos}
    return {info.name: fixed[info.name] for info in infos if len(fixed[info.name]) == len(info.shape)} | dict(shapes)


def named_inputs(infos: Sequence[TensorInfo], arrays: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a call by name: `arrays` in the network's order, then those given by name.

    Raises:
        InvalidArgumentError: too many, or one that is given twice.
    """
    if len(arrays) > len(infos):
        raise InvalidArgumentError("inputs", f"at most {len(infos)} arrays", f"{len(arrays)} of them")
    if not isinstance(named, Mapping):
        raise InvalidArgumentError("inputs", "a mapping of input names to arrays", named)
    inputs = {info.name: array for info, array in zip(infos, arrays, strict=False)}
    for name, array in named.items():
        if name in inputs:
            raise InvalidArgumentError("inputs", f"{name!r} once", "twice: by position and by name")
        inputs[name] = array
    return inputs


def converted(info: TensorInfo, array: Array) -> Array:
    """An input in the network's dtype: floats are converted to its float dtype, anything else if no value changes.

    Raises:
        InvalidArgumentError: another dtype.

    Example:
        >>> converted(TensorInfo("x", np.dtype("float32"), (2,)), np.array([1, 2], np.uint8)).dtype
        dtype('float32')
    """
    if array.dtype == info.dtype:
        return array
    if not (is_float(array.dtype) and is_float(info.dtype)) and not np.can_cast(array.dtype, info.dtype, "safe"):
        raise InvalidArgumentError(f"inputs[{info.name!r}].dtype", str(info.dtype), str(array.dtype))
    return array.astype(info.dtype)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
